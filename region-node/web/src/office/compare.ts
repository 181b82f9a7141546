/** One setting of two configs, by its path. */
export interface Compared {
  path: string;
  before: unknown;
  after: unknown;
  differs: boolean;
}

function leaves(value: unknown, path: string, into: Map<string, unknown>): void {
  const isObject = typeof value === 'object' && value !== null && !Array.isArray(value);
  if (!isObject || Object.keys(value).length === 0) {
    into.set(path, value);
    return;
  }
  for (const [name, inner] of Object.entries(value)) leaves(inner, path === '' ? name : `${path}.${name}`, into);
}

/** Every setting of either config, in order of its path, and whether the two agree on it. */
export function compare(before: Record<string, unknown>, after: Record<string, unknown>): Compared[] {
  const old = new Map<string, unknown>();
  const now = new Map<string, unknown>();
  for (const [name, value] of Object.entries(before)) leaves(value, name, old);
  for (const [name, value] of Object.entries(after)) leaves(value, name, now);
  const paths = [...new Set([...old.keys(), ...now.keys()])].sort();
  return paths.map((path) => ({
    path,
    before: old.get(path),
    after: now.get(path),
    differs: JSON.stringify(old.get(path)) !== JSON.stringify(now.get(path)),
  }));
}
