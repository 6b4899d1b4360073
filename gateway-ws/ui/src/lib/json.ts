// Finds the first mistake in a JSON text and says where it is. Browsers word this differently, and some give no place.

export interface Mistake {
  /** Index into the text. */
  offset: number;
  /** Both counted from 1. */
  line: number;
  column: number;
  message: string;
}

const DEEPEST = 256;

/** The first mistake, or null for valid JSON. */
export function mistakeIn(text: string): Mistake | null {
  const reader = new Reader(text);
  try {
    reader.document();
    return null;
  } catch (cause) {
    if (!(cause instanceof Stop)) throw cause;
    const before = text.slice(0, cause.offset);
    const line = before.split('\n').length;
    return { offset: cause.offset, line, column: cause.offset - before.lastIndexOf('\n'), message: cause.message };
  }
}

/** The mistake that the gateway will probably find in a valid JSON text, in one sentence; null where it fits. */
export function shapeAdvice(value: unknown): string | null {
  if (!isObject(value)) return 'A record is an object with device_id, timestamp and data.';
  if (value.type === 'ping') return null;
  const record = value.type === 'data' && 'payload' in value ? value.payload : value;
  if (!isObject(record)) return 'The payload should be an object.';
  // The field form may carry bare readings as its payload.
  if (record !== value && !('data' in record)) return null;
  if (typeof record.device_id !== 'string' || record.device_id === '') return 'device_id should be a text, such as "rpi_001".';
  if (typeof record.timestamp !== 'string' || Number.isNaN(Date.parse(record.timestamp)))
    return 'timestamp should be a time such as "2025-01-29T11:35:00Z".';
  if (!isObject(record.data)) return 'data should be an object of readings.';
  return null;
}

export function isObject(value: unknown): value is Record<string, unknown> {
  return value !== null && typeof value === 'object' && !Array.isArray(value);
}

class Stop extends Error {
  readonly offset: number;
  constructor(offset: number, message: string) {
    super(message);
    this.offset = offset;
  }
}

class Reader {
  readonly #text: string;
  #at = 0;

  constructor(text: string) {
    this.#text = text;
  }

  document(): void {
    this.#space();
    if (this.#at >= this.#text.length) this.#stop('there is nothing here yet');
    this.#value(0);
    this.#space();
    if (this.#at < this.#text.length) this.#stop('nothing may follow the end of the value');
  }

  #value(depth: number): void {
    if (depth > DEEPEST) this.#stop(`nested deeper than ${DEEPEST} levels`);
    const c = this.#text[this.#at];
    if (c === '{') this.#object(depth);
    else if (c === '[') this.#array(depth);
    else if (c === '"') this.#string();
    else if (c === '-' || digit(c)) this.#number();
    else this.#word();
  }

  #object(depth: number): void {
    this.#at++;
    this.#space();
    if (this.#take('}')) return;
    for (;;) {
      if (this.#text[this.#at] !== '"') this.#stop(this.#text[this.#at] === '}' ? 'remove the comma before }' : 'a name in double quotes is expected');
      this.#string();
      this.#space();
      if (!this.#take(':')) this.#stop('a colon is expected after the name');
      this.#space();
      this.#value(depth + 1);
      this.#space();
      if (this.#take('}')) return;
      if (!this.#take(',')) this.#stop('a comma or } is expected');
      this.#space();
    }
  }

  #array(depth: number): void {
    this.#at++;
    this.#space();
    if (this.#take(']')) return;
    for (;;) {
      if (this.#text[this.#at] === ']') this.#stop('remove the comma before ]');
      this.#value(depth + 1);
      this.#space();
      if (this.#take(']')) return;
      if (!this.#take(',')) this.#stop('a comma or ] is expected');
      this.#space();
    }
  }

  #string(): void {
    const start = this.#at++;
    for (;;) {
      const c = this.#text[this.#at];
      if (c === undefined || c === '\n') {
        this.#at = start;
        this.#stop('this text has no closing quote');
      }
      if (c < ' ') this.#stop('a control character must be written as an escape');
      this.#at++;
      if (c === '"') return;
      if (c !== '\\') continue;
      const escape = this.#text[this.#at] ?? '';
      if (escape === 'u' && !/^[0-9a-fA-F]{4}$/.test(this.#text.slice(this.#at + 1, this.#at + 5))) this.#stop('\\u needs four hexadecimal digits');
      if (escape === '' || !'"\\/bfnrtu'.includes(escape)) this.#stop('this escape is not known in JSON');
      this.#at += escape === 'u' ? 5 : 1;
    }
  }

  #number(): void {
    const match = /^-?(0|[1-9]\d*)(\.\d+)?([eE][+-]?\d+)?/.exec(this.#text.slice(this.#at, this.#at + 400));
    const end = this.#at + (match?.[0].length ?? 0);
    if (!match || /[\w.]/.test(this.#text[end] ?? '')) this.#stop('this is not a JSON number');
    this.#at = end;
  }

  #word(): void {
    for (const word of ['true', 'false', 'null']) {
      if (this.#text.startsWith(word, this.#at) && !/\w/.test(this.#text[this.#at + word.length] ?? '')) {
        this.#at += word.length;
        return;
      }
    }
    const c = this.#text[this.#at];
    if (c === undefined) this.#stop('the text ends too early');
    this.#stop(c === "'" ? 'use double quotes' : 'a value is expected');
  }

  #take(c: string): boolean {
    if (this.#text[this.#at] !== c) return false;
    this.#at++;
    return true;
  }

  #space(): void {
    while (' \t\n\r'.includes(this.#text[this.#at] ?? 'x')) this.#at++;
  }

  #stop(message: string): never {
    throw new Stop(this.#at, message);
  }
}

function digit(c: string | undefined): boolean {
  return c !== undefined && c >= '0' && c <= '9';
}
