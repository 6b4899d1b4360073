// A byte stream as lines. Nothing is read ahead of whoever asks for the next line, so a slow reader slows the sender.

/** Longest line: a record of 64 KiB and what stands around it. */
const LONGEST = 1 << 20;

export async function* lines(stream: ReadableStream<Uint8Array>): AsyncGenerator<string, void, void> {
  const reader = stream.getReader();
  const decoder = new TextDecoder();
  let rest = '';
  try {
    for (;;) {
      const { done, value } = await reader.read();
      rest += done ? decoder.decode() : decoder.decode(value, { stream: true });
      let from = 0;
      for (let at = rest.indexOf('\n'); at >= 0; at = rest.indexOf('\n', from)) {
        yield rest.slice(from, rest[at - 1] === '\r' ? at - 1 : at);
        from = at + 1;
      }
      rest = rest.slice(from);
      if (rest.length > LONGEST) throw new Error('a line is too long');
      if (done) {
        if (rest !== '') yield rest;
        return;
      }
    }
  } finally {
    // Also when the loop over the lines was left: what still comes is not wanted.
    await reader.cancel().catch(() => undefined);
  }
}
