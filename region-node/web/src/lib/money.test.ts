import { describe, expect, it } from 'vitest';
import { formatMoney, minorDigits, parseMoney, tipChoices } from './money';

describe('formatMoney', () => {
  it.each([
    [{ amount: 1250, currency: 'USD' }, 'en-US', '$12.50'],
    [{ amount: -300, currency: 'USD' }, 'en-US', '-$3.00'],
    [{ amount: 1250, currency: 'JPY' }, 'en-US', '¥1,250'],
    [{ amount: 1250, currency: 'KWD' }, 'en-US', 'KWD 1.250'],
    [{ amount: 12345678, currency: 'INR' }, 'en-IN', '₹1,23,456.78'],
    [{ amount: 990, currency: 'EUR' }, 'pt-PT', '9,90 €'],
  ])('shows %o in %s as %s', (money, locale, shown) => {
    expect(formatMoney(money, locale).replace(/[\u00a0\u202f]/g, ' ')).toBe(shown);
  });

  it('shows a code no currency has with two decimals', () => {
    expect(minorDigits('nope')).toBe(2);
    expect(formatMoney({ amount: 5, currency: 'nope' })).toBe('0.05 nope');
  });
});

describe('parseMoney', () => {
  it.each([
    ['12.50', 'USD', 1250],
    [' 12,5 ', 'EUR', 1250],
    ['7', 'USD', 700],
    ['0.05', 'USD', 5],
    ['1250', 'JPY', 1250],
    ['1.25', 'KWD', 1250],
  ])('reads %s in %s', (text, currency, amount) => {
    expect(parseMoney(text, currency)).toEqual({ amount, currency });
  });

  it.each([
    ['', 'USD'],
    ['0', 'USD'],
    ['-5', 'USD'],
    ['1.005', 'USD'],
    ['1.5', 'JPY'],
    ['1,000.00', 'USD'],
    ['twelve', 'USD'],
  ])('refuses %j in %s', (text, currency) => {
    expect(parseMoney(text, currency)).toBeNull();
  });
});

describe('tipChoices', () => {
  it.each([
    [1250, [130, 190, 250]],
    [98_765, [9900, 15_000, 20_000]],
    [100, [10, 15, 20]],
    [3, [1]],
  ])('offers round parts of %i: %o', (fare, amounts) => {
    expect(tipChoices({ amount: fare, currency: 'USD' }).map((tip) => tip.amount)).toEqual(amounts);
  });
});
