export type Month = 'this' | 'last';

export const MONTHS: readonly { value: Month; label: string }[] = [
  { value: 'this', label: 'This month' },
  { value: 'last', label: 'Last month' },
];

/** From when until when a month lasts by the reader's clock, and what a file of it is called. */
export function monthsSpan(month: Month, now: Date): { from: Date; to: Date; name: string } {
  const back = month === 'this' ? 0 : 1;
  const from = new Date(now.getFullYear(), now.getMonth() - back, 1);
  const to = new Date(now.getFullYear(), now.getMonth() - back + 1, 1);
  return { from, to, name: `${from.getFullYear()}-${String(from.getMonth() + 1).padStart(2, '0')}` };
}
