/** One setting of two configs, by its path. */
export interface Compared {
  keys: readonly string[];
  before: unknown;
  after: unknown;
  differs: boolean;
}

interface Leaf {
  keys: readonly string[];
  value: unknown;
}

function leaves(value: unknown, keys: readonly string[], into: Map<string, Leaf>): void {
  const isObject = typeof value === 'object' && value !== null && !Array.isArray(value);
  if (!isObject || Object.keys(value).length === 0) {
    into.set(pathOf(keys), { keys, value });
    return;
  }
  for (const [name, inner] of Object.entries(value)) leaves(inner, [...keys, name], into);
}

/** The path as it is read: "tariffs.standard.base". */
export function pathOf(keys: readonly string[]): string {
  return keys.join('.');
}

/** Every setting of either config, in order of its path, and whether the two agree on it. */
export function compare(before: Record<string, unknown>, after: Record<string, unknown>): Compared[] {
  const old = new Map<string, Leaf>();
  const now = new Map<string, Leaf>();
  for (const [name, value] of Object.entries(before)) leaves(value, [name], old);
  for (const [name, value] of Object.entries(after)) leaves(value, [name], now);
  const paths = [...new Set([...old.keys(), ...now.keys()])].sort();
  return paths.map((path) => {
    const one = old.get(path);
    const other = now.get(path);
    return {
      keys: (other ?? one)?.keys ?? [],
      before: one?.value,
      after: other?.value,
      differs: JSON.stringify(one?.value) !== JSON.stringify(other?.value),
    };
  });
}
