// The stream that is on the screen, as a program: the same producer, filter and sampling, with the caller's own token.
import type { Places, Selection } from '@motience/client';

export interface Snippet {
  id: string;
  label: string;
  code: string;
}

export function snippets(places: Places, producer: string, selection: Selection, token: string): Snippet[] {
  const pairs: [string, string][] = [['producers', producer], ...(selection.where ?? []).map((text): [string, string] => ['where', text]), ...(selection.every ? [['every', selection.every] as [string, string]] : [])];
  const shell = (text: string) => `'${text.replaceAll("'", `'\\''`)}'`;
  const query = new URLSearchParams(pairs);
  return [
    {
      id: 'curl',
      label: 'curl',
      code: `TOKEN=${token}\ncurl -N -G -H "Authorization: Bearer $TOKEN" -H "Accept: application/x-ndjson" ${places.dsm}/stream \\\n  ${pairs.map(([name, value]) => `--data-urlencode ${shell(`${name}=${value}`)}`).join(' \\\n  ')}`,
    },
    {
      id: 'node',
      label: 'Node',
      code: `import readline from 'node:readline';
import { Readable } from 'node:stream';

const answer = await fetch(${JSON.stringify(`${places.dsm}/stream?${query}`)}, {
  headers: { authorization: 'Bearer ${token}', accept: 'application/x-ndjson' },
});
for await (const line of readline.createInterface({ input: Readable.fromWeb(answer.body) })) {
  const message = JSON.parse(line);
  if (message.record_id) console.log(message.device_id, message.timestamp, message.data);
}`,
    },
    {
      id: 'python',
      label: 'Python',
      code: `import json, urllib.request

request = urllib.request.Request(
    ${JSON.stringify(`${places.dsm}/stream?${query}`)},
    headers={"Authorization": "Bearer ${token}", "Accept": "application/x-ndjson"},
)
with urllib.request.urlopen(request, timeout=40) as stream:
    for line in stream:
        message = json.loads(line)
        if "record_id" in message:
            print(message["device_id"], message["timestamp"], message["data"])`,
    },
  ];
}
