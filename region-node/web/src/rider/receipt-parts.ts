import type { ReceiptPart } from '../api/types';
import { formatMoney } from '../lib/money';

/** The payments a trip consists of, where it is more than one; what was declined is none. */
export function partsOf(payments: readonly ReceiptPart[]): ReceiptPart[] {
  const parts = payments.filter(({ status }) => status !== 'failed');
  return parts.length > 1 ? parts : [];
}

/** What a part is for. */
export function nameOf(part: ReceiptPart): string {
  if (part.kind === 'tip') return 'Tip';
  return part.share_of == null ? 'Your part' : `Share of ${part.share_of === '' ? 'a rider' : part.share_of}`;
}

/** What was given back of a part, and what a bank wanted back. */
export function notesOn(part: ReceiptPart, locale?: string): string[] {
  const notes = part.refunds
    .filter(({ status }) => status !== 'failed')
    .map(({ status, amount, to }) => {
      const where = to === 'wallet' ? ' to your wallet' : '';
      return `${formatMoney(amount, locale)} ${status === 'settled' ? 'refunded' : 'being refunded'}${where}`;
    });
  const words = { open: 'disputed', won: 'disputed in vain', lost: 'taken back by the bank' };
  return [...notes, ...part.disputes.map(({ status, amount }) => `${formatMoney(amount, locale)} ${words[status]}`)];
}
