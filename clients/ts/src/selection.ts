// A selection of records and their order: filter, projection and sampling, done by the server before it sends anything.

export interface Selection {
  /** Comparisons that must all hold: `/data/temperature > 30`. A JSON pointer, `= != < <= > >=`, and a value. */
  where?: string[] | undefined;
  /** Members of `data` that are kept: `['/data/temperature', '/data/humidity']`. */
  fields?: string[] | undefined;
  /** The last value of each device in every window of this length: `10s`, `1m`. */
  every?: string | undefined;
  /** `device`: as each device numbered them; otherwise as they arrived in the log. */
  order?: 'log' | 'device' | undefined;
}

/** As parameters of a query. */
export function selectionParameters(selection: Selection): [string, string][] {
  const pairs: [string, string][] = (selection.where ?? []).filter((text) => text.trim() !== '').map((text) => ['where', text]);
  if (selection.fields && selection.fields.length > 0) pairs.push(['fields', selection.fields.join(',')]);
  if (selection.every) pairs.push(['every', selection.every]);
  if (selection.order) pairs.push(['order', selection.order]);
  return pairs;
}

/** As members of a message. */
export function selectionMembers(selection: Selection): Record<string, unknown> {
  return {
    ...(selection.where && selection.where.length > 0 ? { where: selection.where } : {}),
    ...(selection.fields && selection.fields.length > 0 ? { fields: selection.fields.join(',') } : {}),
    ...(selection.every ? { every: selection.every } : {}),
    ...(selection.order ? { order: selection.order } : {}),
  };
}
