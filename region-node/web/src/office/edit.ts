/** A merge patch (RFC 7396) that writes one setting and touches no other. */
export function patchOf(keys: readonly string[], value: unknown): Record<string, unknown> {
  const [first, ...rest] = keys;
  if (first === undefined) throw new Error('a setting has a name');
  return { [first]: rest.length === 0 ? value : patchOf(rest, value) };
}

/** A setting as it is typed: words as they are, everything else as JSON. */
export function textOf(value: unknown): string {
  return typeof value === 'string' ? value : JSON.stringify(value);
}

/** What was typed, read as the kind of value the setting has now; undefined if it cannot be. */
export function valueFrom(text: string, now: unknown): unknown {
  if (typeof now === 'string') return text;
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch {
    return undefined;
  }
  return kind(value) === kind(now) ? value : undefined;
}

/** The kinds of value in words, for those who type one of another kind. */
export function kind(value: unknown): 'a list' | 'nothing' | 'text' | 'a number' | 'true or false' | 'an object' {
  if (Array.isArray(value)) return 'a list';
  if (value === null) return 'nothing';
  switch (typeof value) {
    case 'string':
      return 'text';
    case 'number':
      return 'a number';
    case 'boolean':
      return 'true or false';
    default:
      return 'an object';
  }
}
