import { useCallback, useReducer, useState } from 'react';
import { ride as loadRide, rides as loadRides } from '../api/calls';
import { clientOf, useSession, type Session } from '../api/session';
import { useSocket } from '../api/socket';
import { useLoad } from '../lib/hooks';
import { AccountScreen } from '../shell/account-screen';
import { Skeleton } from '../ui/controls';
import { ErrorNote } from '../ui/error-note';
import { ActiveRide } from './active-ride';
import { Booking } from './booking';
import { Invitations } from './invitations';
import { follow, isOver, isUnderWay, NOT_FOLLOWING } from './follow';

export default function RiderScreen() {
  const session = useSession('rider');
  if (session !== null) return <SignedIn key={session.subject} session={session} />;
  return <AccountScreen role="rider" title="Where to?" lead="Sign in to see your price and ride in minutes." />;
}

function SignedIn({ session }: { session: Session }) {
  const client = clientOf('rider');
  const [followed, tell] = useReducer(follow, NOT_FOLLOWING);
  const { ride } = followed;
  // Counts news of shared fares; who shows them asks again.
  const [shareNews, setShareNews] = useState(0);

  const history = useLoad(session.subject, (signal) => loadRides(client, { limit: 10 }, signal), undefined, ({ items }) => {
    const open = items.find(isUnderWay);
    if (open !== undefined) tell({ type: 'ride', ride: open });
  });
  const reload = history.reload;

  const { live } = useSocket(session, {
    'ride:update': (news) => {
      tell({ type: 'ride', ride: news });
      // About one that is not followed: a booking, in the list of rides.
      if (ride === null) reload();
    },
    'driver:location': (location) => tell({ type: 'car', location }),
    'payment:update': (news) => tell({ type: 'payment', payment: news }),
    'share:update': () => setShareNews((count) => count + 1),
  });

  // The socket tells at once; asking now and then catches what it missed while it was down.
  const openId = ride !== null && !isOver(ride.status) ? ride.id : null;
  useLoad(
    openId,
    (signal) => loadRide(client, openId ?? '', signal),
    live === 'live' ? 15_000 : 3000,
    (news) => tell({ type: 'ride', ride: news }),
  );

  const leave = useCallback(() => {
    tell({ type: 'leave' });
    reload();
  }, [reload]);

  if (ride !== null) {
    return <ActiveRide session={session} followed={followed} live={live} shareNews={shareNews} tell={tell} onLeave={leave} />;
  }
  if (history.loading) {
    return (
      <div className="page narrow">
        <Skeleton lines={4} />
      </div>
    );
  }
  return (
    <Booking
      session={session}
      history={history.data?.items ?? []}
      notice={
        <>
          <ErrorNote error={history.error} onRetry={history.reload} />
          <Invitations news={shareNews} />
        </>
      }
      onRide={(made) => tell({ type: 'ride', ride: made })}
      onReload={history.reload}
    />
  );
}
