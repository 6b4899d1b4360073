// A producer's connection over WebTransport: wss1's frames as lines of the control stream.
import { messageOf } from '../errors.ts';
import { messageIn } from '../consumer/events.ts';
import { open, whyNoWebTransport } from '../consumer/webtransport.ts';
import { onLeaving } from '../leaving.ts';
import { lines } from '../lines.ts';
import type { ProducerEnding, ProducerLink } from './transport.ts';

/** A token is renewed this long before it ends. */
const RENEW_BEFORE_MS = 30_000;

export async function webtransportProducer(link: ProducerLink): Promise<ProducerEnding> {
  const missing = whyNoWebTransport();
  if (missing) return { code: 0, reason: missing, opened: false, unusable: true };
  const token = await link.token();
  let session: WebTransport;
  try {
    session = await open(link);
  } catch (cause) {
    return { code: 0, reason: messageOf(cause), opened: false, unusable: true };
  }
  const unlisten = onLeaving(link.signal, () => session.close({ closeCode: 1000, reason: 'left' }));
  const progress = { opened: false };
  const closed = session.closed.then(
    ({ closeCode, reason }) => ({ code: closeCode ?? 0, reason: reason ?? '' }),
    (cause: unknown) => ({ code: 1006, reason: messageOf(cause) }),
  );
  const spoken = speak(session, token, link, progress).then(
    () => ({ code: 1006, reason: 'the server ended the control stream' }),
    async (cause: unknown) => (await Promise.race([closed, new Promise<null>((late) => setTimeout(late, 250, null))])) ?? { code: 1006, reason: messageOf(cause) },
  );
  const ending = await Promise.race([closed, spoken]);
  unlisten();
  session.close();
  return { ...ending, opened: progress.opened };
}

async function speak(session: WebTransport, token: string, link: ProducerLink, progress: { opened: boolean }): Promise<void> {
  const control = await session.createBidirectionalStream();
  const writer = control.writable.getWriter();
  const utf8 = new TextEncoder();
  const say = (line: string) => writer.write(utf8.encode(`${line}\n`));
  await say(JSON.stringify({ type: 'hello', token }));
  let renewal: ReturnType<typeof setTimeout> | undefined;
  const renewLater = (expiresIn: unknown) => {
    if (!(Number(expiresIn) > 0)) return;
    const wait = Math.min(Math.max(Number(expiresIn) * 1000 - RENEW_BEFORE_MS, 500), 2 ** 31 - 1);
    clearTimeout(renewal);
    renewal = setTimeout(() => void link.token().then((token) => say(JSON.stringify({ type: 'token', token }))).catch(() => undefined), wait);
  };
  try {
    for await (const line of lines(control.readable)) {
      const message = messageIn(line);
      if (message?.type === 'welcome') {
        progress.opened = true;
        renewLater(message.expires_in);
        // Written is not yet sent: the writer's promise is the back-pressure.
        link.opened((frame) => say(frame));
      } else if (message?.type === 'token_accepted') {
        renewLater(message.expires_in);
      } else {
        link.answered(line);
      }
    }
  } finally {
    clearTimeout(renewal);
  }
}
