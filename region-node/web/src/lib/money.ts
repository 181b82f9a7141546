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
