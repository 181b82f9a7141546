const WORDS: Record<string, string> = {
  missing_here: 'Charged, and no payment here',
  missing_at_psp: 'Paid here, and not charged',
  charged_twice: 'Charged twice',
  amount_differs: 'Another amount was charged',
  status_differs: 'Charged on one side alone',
  refund_missing_here: 'Given back, and no refund here',
  refund_missing_at_psp: 'Refunded here, and not given back',
  refund_made_twice: 'Given back twice',
  refund_amount_differs: 'Another amount was given back',
  refund_status_differs: 'Given back on one side alone',
  dispute_missing_here: 'Disputed, and nobody has told of it',
  dispute_status_differs: 'Decided, and nobody has told how',
  ledger_differs: 'The ledger has it otherwise',
};

/** What a class of difference means; one this app does not know yet stands as it is. */
export function inWords(name: string): string {
  return WORDS[name] ?? name.replaceAll('_', ' ');
}
