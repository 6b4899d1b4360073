// What of the records is wanted, and in which order: done by the server before anything is sent.

export interface View {
  /** Comparisons that must all hold: `/data/temperature > 30`. A JSON pointer, `= != < <= > >=`, and a value. */
  where?: string[] | undefined;
  /** What `data` keeps: `['/data/temperature', '/data/humidity']`. */
  fields?: string[] | undefined;
  /** The last value of each device in every window of this length: `10s`, `1m`. */
  every?: string | undefined;
  /** `device`: as each device numbered them; otherwise as they arrived in the log. */
  order?: 'log' | 'device' | undefined;
}

/** As parameters of a query. */
export function viewParameters(view: View): [string, string][] {
  const pairs: [string, string][] = (view.where ?? []).filter((text) => text.trim() !== '').map((text) => ['where', text]);
  if (view.fields && view.fields.length > 0) pairs.push(['fields', view.fields.join(',')]);
  if (view.every) pairs.push(['every', view.every]);
  if (view.order) pairs.push(['order', view.order]);
  return pairs;
}

/** As members of a message. */
export function viewMembers(view: View): Record<string, unknown> {
  return {
    ...(view.where && view.where.length > 0 ? { where: view.where } : {}),
    ...(view.fields && view.fields.length > 0 ? { fields: view.fields.join(',') } : {}),
    ...(view.every ? { every: view.every } : {}),
    ...(view.order ? { order: view.order } : {}),
  };
}
