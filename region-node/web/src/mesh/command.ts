import type { LostTenant, SyncCommand } from '../api/types';
import { nameOf } from './lag';

/** A command as one would say it. */
export function words(command: SyncCommand): string {
  if (command === 'mend_all') return 'mend all rows that are known to differ';
  if (typeof command === 'string') return command;
  if ('retry' in command) return `retry ${nameOf(command.retry)}`;
  if ('skip' in command) return `skip ${nameOf(command.skip)}`;
  if ('readmit' in command) return `readmit ${command.readmit.id}`;
  if ('dismiss' in command) return `dismiss ${command.dismiss.id}`;
  if ('refetch' in command) return `fetch anew from ${nameOf(command.refetch)}`;
  if ('pause' in command) return `pause ${command.pause.stream} with ${command.pause.peer}`;
  if ('resume' in command) return `resume ${command.resume.stream} with ${command.resume.peer}`;
  if ('load_snapshot' in command) return `load a snapshot of ${command.load_snapshot.peer}`;
  if ('mend' in command) return `mend ${command.mend.key}`;
  if ('erase_lost' in command) return eraseLost(command.erase_lost);
  if ('retire' in command) return `give up ${command.retire.region}`;
  // Of a release that knows more commands.
  return JSON.stringify(command);
}

function eraseLost({ tenant, and_given_up = false }: LostTenant): string {
  return `erase what ${tenant} left behind${and_given_up ? ', payments that were given up too' : ''}`;
}
