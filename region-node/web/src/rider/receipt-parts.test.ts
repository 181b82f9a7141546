import { describe, expect, it } from 'vitest';
import type { ReceiptPart } from '../api/types';
import { nameOf, notesOn, partsOf } from './receipt-parts';

const usd = (amount: number) => ({ amount, currency: 'USD' });
const part = (more: Partial<ReceiptPart> = {}): ReceiptPart => ({
  id: 'p1',
  kind: 'fare',
  status: 'settled',
  method: 'card',
  amount: usd(1100),
  refunds: [],
  disputes: [],
  ...more,
});

describe('the parts of a receipt', () => {
  it('are shown where there is more than one', () => {
    const tip = part({ id: 'p2', kind: 'tip' });
    const fallenBack = part({ id: 'p3', share_of: 'Ada' });
    expect(partsOf([part()])).toEqual([]);
    expect(partsOf([part(), tip, fallenBack]).map(({ id }) => id)).toEqual(['p1', 'p2', 'p3']);
  });

  it('are none of what was declined', () => {
    expect(partsOf([part({ id: 'p0', status: 'failed' }), part()])).toEqual([]);
  });

  it('say what they are for', () => {
    const shares = ['Ada', ''].map((share_of) => nameOf(part({ share_of })));
    expect([nameOf(part()), nameOf(part({ kind: 'tip' })), ...shares]).toEqual(['Your part', 'Tip', 'Share of Ada', 'Share of a rider']);
  });

  it('say all that went back and each dispute', () => {
    const of = part({
      refunds: [
        { status: 'settled', amount: usd(100), to: 'wallet' },
        { status: 'unknown', amount: usd(200), to: 'source' },
        { status: 'failed', amount: usd(300), to: 'source' },
      ],
      disputes: [
        { status: 'won', amount: usd(400) },
        { status: 'open', amount: usd(50) },
      ],
    });
    expect(notesOn(of, 'en')).toEqual([
      '$1.00 refunded to your wallet',
      '$2.00 being refunded',
      '$4.00 disputed in vain',
      '$0.50 disputed',
    ]);
    expect(notesOn(part({ disputes: [{ status: 'lost', amount: usd(50) }] }), 'en')).toEqual(['$0.50 taken back by the bank']);
  });
});
