// The views of one service: its HTTP operations by Swagger UI, and its streams, where it has any, from the AsyncAPI document.

const tabs = [...document.querySelectorAll('header [role="tab"]')];

function show(tab, focus) {
  for (const each of tabs) {
    const selected = each === tab;
    each.setAttribute('aria-selected', String(selected));
    each.tabIndex = selected ? 0 : -1;
    document.getElementById(each.getAttribute('aria-controls')).hidden = !selected;
  }
  if (focus) tab.focus();
  history.replaceState(null, '', tab.id === 'tab-streams' ? '#streams' : location.pathname);
}

for (const [at, tab] of tabs.entries()) {
  tab.addEventListener('click', () => show(tab, false));
  tab.addEventListener('keydown', (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (step) show(tabs[(at + step + tabs.length) % tabs.length], true);
  });
}

/** An element with its children; texts are texts, never markup. */
function element(name, attributes, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children.flat().filter((child) => child != null));
  return made;
}

/** A description, with what stands between backticks as code. */
const prose = (text) => text.split('`').map((part, at) => (at % 2 ? element('code', {}, part) : part));

const last = (reference) => reference.split('/').pop();

/** What a schema allows, in a few words. */
function words(schema) {
  if (schema.$ref) return last(schema.$ref);
  if ('const' in schema) return JSON.stringify(schema.const);
  if (schema.enum) return schema.enum.map((each) => JSON.stringify(each)).join(' or ');
  if (schema.oneOf) return schema.oneOf.map(words).join(' or ');
  if (schema.type === 'array') return `list of ${words(schema.items)}`;
  const kind = [schema.type ?? 'any JSON'].flat().join(' or ');
  return schema.pattern ? `${kind} like ${schema.pattern}` : kind;
}

function members(document_, schema) {
  const whole = schema.$ref ? document_.components.schemas[last(schema.$ref)] : schema;
  const rows = Object.entries(whole.properties ?? {}).map(([name, member]) => {
    const described = member.description ?? (member.$ref ? document_.components.schemas[last(member.$ref)].description : '') ?? '';
    const optional = (whole.required ?? []).includes(name) ? '' : ' (optional)';
    return element('tr', {}, element('td', {}, element('code', {}, name), optional), element('td', {}, words(member)), element('td', {}, prose(described)));
  });
  const head = element('thead', {}, element('tr', {}, ...['Member', 'Value', 'Meaning'].map((title) => element('th', {}, title))));
  return [
    whole.description ? element('p', {}, prose(whole.description)) : null,
    rows.length ? element('table', {}, head, element('tbody', {}, rows)) : null,
  ];
}

function message(document_, name) {
  const { title, payload, examples = [] } = document_.components.messages[name];
  const shown = examples.map((example) => [
    example.name ? element('p', { class: 'soft' }, example.name) : null,
    element('pre', { tabindex: '0' }, element('code', {}, JSON.stringify(example.payload, null, 2))),
  ]);
  return element('details', {}, element('summary', {}, title), members(document_, payload), shown.flat());
}

function operation(document_, each) {
  const direction = each.action === 'receive' ? 'to the server' : 'from the server';
  const answers = each.reply ? [element('p', { class: 'soft' }, 'Answered with'), each.reply.messages.map(({ $ref }) => message(document_, last($ref)))] : [];
  return element('div', {},
    element('h3', {}, element('span', { class: 'tag' }, direction), each.title),
    each.description ? element('p', {}, prose(each.description)) : null,
    each.messages.map(({ $ref }) => message(document_, last($ref))),
    answers.flat());
}

function streams(document_) {
  const operations = Object.values(document_.operations);
  const servers = Object.entries(document_.servers).map(([name, server]) =>
    element('tr', {}, element('td', {}, name), element('td', {}, element('code', {}, `${server.protocol}://${server.host}`)), element('td', {}, prose(server.description))));
  const channels = Object.entries(document_.channels).map(([name, channel]) => element('section', { id: `channel-${name}` },
    element('h2', {}, channel.title),
    element('p', {}, element('code', {}, channel.address), ' on ', channel.servers.map(({ $ref }) => last($ref)).join(', ')),
    element('p', {}, prose(channel.description)),
    operations.filter((each) => last(each.channel.$ref) === name).map((each) => operation(document_, each))));
  const contents = Object.entries(document_.channels).map(([name, channel]) => element('li', {}, element('a', { href: `#channel-${name}` }, channel.title)));
  return [
    element('p', {}, prose(document_.info.description)),
    element('h2', {}, 'Servers'), element('table', {}, element('tbody', {}, servers)),
    element('h2', {}, 'Channels'), element('ul', {}, contents),
    ...channels,
  ];
}

window.SwaggerUIBundle({ url: 'openapi.json', dom_id: '#swagger-ui', deepLinking: false });
const place = document.getElementById('streams');
if (place) {
  document.getElementById('http').setAttribute('role', 'tabpanel');
  document.getElementById('http').setAttribute('aria-labelledby', 'tab-http');
  try {
    const answer = await fetch('asyncapi.json');
    if (!answer.ok) throw new Error(`the server answered ${answer.status}`);
    place.replaceChildren(...streams(await answer.json()));
  } catch (problem) {
    place.replaceChildren(element('p', { role: 'alert' }, `The document of the streams cannot be read: ${problem.message}. Load this page again.`));
  }
  if (location.hash === '#streams') show(tabs[1], false);
}
