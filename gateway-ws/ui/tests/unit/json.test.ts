// The JSON checker agrees with the language's own parser, and says where the mistake is.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { EXAMPLE } from '../../src/lib/example.ts';
import { mistakeIn, shapeAdvice } from '../../src/lib/json.ts';

const valid = (text: string) => {
  try {
    JSON.parse(text);
    return true;
  } catch {
    return false;
  }
};

test('the example is valid and fits', () => {
  assert.equal(mistakeIn(EXAMPLE), null);
  assert.equal(shapeAdvice(JSON.parse(EXAMPLE)), null);
});

test('the place and the reason are told', () => {
  const at = (text: string) => {
    const m = mistakeIn(text);
    return m && `${m.line}:${m.column} ${m.message}`;
  };
  assert.equal(at(''), '1:1 there is nothing here yet');
  assert.equal(at('{\n  "a": 1,\n}'), '3:1 remove the comma before }');
  assert.equal(at('{\n  "a" 1}'), '2:7 a colon is expected after the name');
  assert.equal(at('{"a": 1 "b": 2}'), '1:9 a comma or } is expected');
  assert.equal(at('[1, 2,]'), '1:7 remove the comma before ]');
  assert.equal(at("{'a': 1}"), '1:2 a name in double quotes is expected');
  assert.equal(at('{"a": 01}'), '1:7 this is not a JSON number');
  assert.equal(at('{"a": "x}'), '1:7 this text has no closing quote');
  assert.equal(at('{"a": NaN}'), '1:7 a value is expected');
  assert.equal(at('{} {}'), '1:4 nothing may follow the end of the value');
  assert.equal(at('{"a":'), '1:6 the text ends too early');
});

test('it agrees with JSON.parse on every single change of the example', () => {
  const signs = ['', '"', '{', '}', '[', ']', ',', ':', '\\', '0', '-', '.', 'e', 't', ' ', '\n', '\t', '\u0001'];
  let broken = 0;
  for (let i = 0; i <= EXAMPLE.length; i++) {
    for (const sign of signs) {
      for (const text of [EXAMPLE.slice(0, i) + sign + EXAMPLE.slice(i), EXAMPLE.slice(0, i) + sign + EXAMPLE.slice(i + 1)]) {
        const mistake = mistakeIn(text);
        assert.equal(mistake === null, valid(text), JSON.stringify(text));
        if (mistake) broken++;
      }
    }
  }
  assert.ok(broken > 1000);
});

test('it agrees with JSON.parse on odd values', () => {
  for (const text of ['true', 'nul', 'nullx', '-0', '-', '1.', '1e5', '1e', '1E+2', '"\\u12g4"', '"\\u00e9\\n"', '"\\x"', ' [ ] ', '[[],{}]', '0x10', '.5', '+1', '\u00a01', '"\u2028"'])
    assert.equal(mistakeIn(text) === null, valid(text), text);
});

test('a hostile depth is refused, not a crash', () => {
  assert.match(mistakeIn('['.repeat(100_000))?.message ?? '', /nested deeper/);
});

test('advice about the shape', () => {
  const record = { device_id: 'd', timestamp: '2025-01-29T11:35:00Z', data: {} };
  assert.equal(shapeAdvice({ type: 'data', payload: record }), null);
  assert.equal(shapeAdvice({ type: 'data', payload: { temperature: 1 } }), null);
  assert.equal(shapeAdvice({ type: 'ping' }), null);
  assert.match(shapeAdvice([]) ?? '', /object/);
  assert.match(shapeAdvice({ ...record, device_id: 5 }) ?? '', /device_id/);
  assert.match(shapeAdvice({ ...record, timestamp: 'yesterday' }) ?? '', /timestamp/);
  assert.match(shapeAdvice({ ...record, data: 3 }) ?? '', /data/);
});
