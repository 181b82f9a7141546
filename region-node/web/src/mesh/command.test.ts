import { expect, test } from 'vitest';
import { words } from './command';

test('a command is said in words, an entry by its name', () => {
  const entry = { origin: 'us-east', incarnation: 1, stream: 'ledger', seq: 17 } as const;
  expect(words('verify')).toBe('verify');
  expect(words({ skip: entry })).toBe('skip us-east/1/ledger/17');
  expect(words({ dismiss: { id: '0198' } })).toBe('dismiss 0198');
  expect(words({ mend: { key: 'home porto-taxis' } })).toBe('mend home porto-taxis');
  expect(words({ erase_lost: { tenant: 'porto-taxis' } })).toBe('erase what porto-taxis left behind');
  expect(words({ erase_lost: { tenant: 'porto-taxis', and_given_up: true } })).toBe(
    'erase what porto-taxis left behind, payments that were given up too',
  );
  expect(words({ pause: { peer: 'eu-west', stream: 'config' } })).toBe('pause config with eu-west');
  expect(words({ retire: { region: 'ap-south' } })).toBe('give up ap-south');
});
