import { useSession } from '../api/session';
import { AccountScreen } from '../shell/account-screen';
import { Cockpit } from './cockpit';

export default function DriverScreen() {
  const session = useSession('driver');
  if (session !== null) return <Cockpit key={session.subject} session={session} />;
  return <AccountScreen role="driver" title="Drive with us" lead="Sign in, go online, and rides near you come to this screen." />;
}
