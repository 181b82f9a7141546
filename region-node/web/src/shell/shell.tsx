import type { ReactNode } from 'react';
import { signOut, useServedBy, useSession } from '../api/session';
import type { Role } from '../api/types';
import { useOnline } from '../lib/hooks';
import { setTheme, useTheme } from '../lib/theme';
import { followLink, usePathname } from '../router';
import { Badge, Button } from '../ui/controls';
import { Icon } from '../ui/icon';

const SCREENS: readonly { path: string; label: string; role: Role }[] = [
  { path: '/rider', label: 'Ride', role: 'rider' },
  { path: '/driver', label: 'Drive', role: 'driver' },
  { path: '/office', label: 'Back office', role: 'tenant_admin' },
  { path: '/mesh', label: 'Mesh', role: 'operator' },
];

export function Brand() {
  return (
    <svg viewBox="0 0 32 32" aria-hidden="true">
      <rect width="32" height="32" rx="8" fill="#17191d" />
      <path d="M5 25 17.5 12.5" stroke="#ffc533" strokeWidth="3" strokeLinecap="round" opacity=".45" />
      <path d="M9.5 26.500 19 17" stroke="#ffc533" strokeWidth="3" strokeLinecap="round" opacity=".8" />
      <circle cx="21" cy="11" r="6" fill="#ffc533" />
    </svg>
  );
}

/** What stands around every screen: navigation, who is signed in, which region answers, and whether there is a network. */
export function Shell({ children }: { children: ReactNode }) {
  const path = usePathname();
  const theme = useTheme();
  const online = useOnline();
  const screen = SCREENS.find((one) => one.path === path);

  return (
    <>
      <a className="skip-link" href="#content">
        Skip to content
      </a>
      <header className="header">
        <a className="brand" href="/" onClick={followLink} aria-label="GoComet DAW, start page">
          <Brand />
          GoComet
        </a>
        <nav aria-label="Screens">
          <ul className="nav-list">
            {SCREENS.map((one) => (
              <li key={one.path}>
                <a href={one.path} onClick={followLink} aria-current={one.path === path ? 'page' : undefined}>
                  {one.label}
                </a>
              </li>
            ))}
          </ul>
        </nav>
        <div className="header-tools">
          <RegionChip />
          {screen !== undefined && <Account role={screen.role} />}
          <button
            type="button"
            className="icon-button"
            aria-label={theme === 'dark' ? 'Use the light theme' : 'Use the dark theme'}
            onClick={() => setTheme(theme === 'dark' ? 'light' : 'dark')}
          >
            <Icon name={theme === 'dark' ? 'sun' : 'moon'} />
          </button>
        </div>
      </header>
      <div role="status">
        {!online && <p className="offline-bar">You are offline. What you see may be old; it catches up when the network is back.</p>}
      </div>
      <main id="content" tabIndex={-1}>
        {children}
      </main>
    </>
  );
}

function RegionChip() {
  const { edge, home } = useServedBy();
  if (edge === null && home === null) return null;
  const forwarded = edge !== null && home !== null && edge !== home;
  return (
    <span className="hide-narrow" title={forwarded ? `${edge} took the call, ${home} answered it` : undefined}>
      <Badge>
        {edge ?? home}
        {forwarded && ` → ${home}`}
      </Badge>
    </span>
  );
}

function Account({ role }: { role: Role }) {
  const session = useSession(role);
  if (session === null) return null;
  return (
    <>
      {session.tenant !== null && <span className="small muted hide-narrow">{session.tenant}</span>}
      <Button compact kind="quiet" onClick={() => signOut(role)}>
        Sign out
      </Button>
    </>
  );
}
