// A file of the page's own making, as a download.

/** How long the browser has to take it. */
const LIFE_MS = 10_000;

export function save(parts: BlobPart[], type: string, name: string): void {
  const url = URL.createObjectURL(new Blob(parts, { type }));
  Object.assign(document.createElement('a'), { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), LIFE_MS);
}
