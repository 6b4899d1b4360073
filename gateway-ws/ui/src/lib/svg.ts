// A picture that the service drew, as an element: only shapes are taken of it.

const SHAPES = new Set(['svg', 'g', 'path', 'rect']);
const ATTRIBUTES = new Set(['viewBox', 'width', 'height', 'd', 'x', 'y', 'fill', 'transform', 'shape-rendering', 'stroke']);
const SVG = 'http://www.w3.org/2000/svg';

/** The SVG as an element; null where it is none. */
export function pictureOf(text: string): SVGElement | null {
  const { documentElement: root } = new DOMParser().parseFromString(text, 'image/svg+xml');
  return root.localName === 'svg' ? (copied(root) as SVGElement | null) : null;
}

function copied(from: Element): Element | null {
  if (!SHAPES.has(from.localName)) return null;
  const to = document.createElementNS(SVG, from.localName);
  for (const { name, value } of from.attributes) if (ATTRIBUTES.has(name)) to.setAttribute(name, value);
  for (const child of from.children) {
    const copy = copied(child);
    if (copy) to.append(copy);
  }
  return to;
}
