// Light or dark: the system's choice until the person makes one. Only this preference is kept in localStorage.

export type Theme = 'light' | 'dark';

const KEY = 'motience.theme';

export function currentTheme(): Theme {
  const chosen = document.documentElement.dataset.theme;
  if (chosen === 'light' || chosen === 'dark') return chosen;
  return matchMedia('(prefers-color-scheme: dark)').matches ? 'dark' : 'light';
}

export function restoreTheme(): void {
  try {
    const kept = localStorage.getItem(KEY);
    if (kept === 'light' || kept === 'dark') document.documentElement.dataset.theme = kept;
  } catch {
    // Without storage the system's choice stands.
  }
}

export function chooseTheme(theme: Theme): void {
  document.documentElement.dataset.theme = theme;
  dispatchEvent(new Event('themechange'));
  try {
    localStorage.setItem(KEY, theme);
  } catch {
    // Not kept, still applied.
  }
}
