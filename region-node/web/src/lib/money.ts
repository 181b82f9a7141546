/** An amount in the currency's minor unit, as the API sends it. */
export interface Money {
  amount: number;
  currency: string;
}

/** How many decimals a currency has: 2 for most, 0 for yen, 3 for some dinars. */
export function minorDigits(currency: string): number {
  try {
    return new Intl.NumberFormat('en', { style: 'currency', currency }).resolvedOptions().maximumFractionDigits ?? 2;
  } catch {
    return 2;
  }
}

/** "$12.50" for `{amount: 1250, currency: "USD"}`, in the reader's language. */
export function formatMoney(money: Money, locale?: string): string {
  const digits = minorDigits(money.currency);
  const value = money.amount / 10 ** digits;
  try {
    return new Intl.NumberFormat(locale, { style: 'currency', currency: money.currency }).format(value);
  } catch {
    return `${value.toFixed(digits)} ${money.currency}`;
  }
}

/** The amount people type as "12.50" or "12,5"; null unless it is one of the currency's, above nothing. */
export function parseMoney(text: string, currency: string): Money | null {
  const digits = minorDigits(currency);
  const [, whole, rest = ''] = /^\s*(\d{1,9})(?:[.,](\d{1,3}))?\s*$/.exec(text) ?? [];
  if (whole === undefined || rest.length > digits) return null;
  const amount = Number(whole) * 10 ** digits + Number(rest.padEnd(digits, '0') || '0');
  return amount > 0 ? { amount, currency } : null;
}

/** What a rider may give the driver of a trip that cost `fare`: 10, 15 and 20 %, to two digits. */
export function tipChoices(fare: Money): Money[] {
  const amounts = [0.1, 0.15, 0.2].map((share) => {
    const exact = fare.amount * share;
    const step = 10 ** Math.max(0, Math.floor(Math.log10(Math.max(exact, 1))) - 1);
    return Math.max(1, Math.round(exact / step) * step);
  });
  return [...new Set(amounts)].map((amount) => ({ amount, currency: fare.currency }));
}
