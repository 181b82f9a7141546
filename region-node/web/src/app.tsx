import { Component, lazy, Suspense, useEffect, type ReactNode } from 'react';
import { followLink, usePathname } from './router';
import { Shell } from './shell/shell';
import { Button, Empty } from './ui/controls';

const SCREENS: Record<string, { title: string; Screen: ReturnType<typeof lazy> }> = {
  '/': { title: 'GoComet DAW', Screen: lazy(() => import('./pages/home')) },
  '/rider': { title: 'Ride', Screen: lazy(() => import('./rider/rider-screen')) },
  '/driver': { title: 'Drive', Screen: lazy(() => import('./driver/driver-screen')) },
  '/office': { title: 'Back office', Screen: lazy(() => import('./office/office-screen')) },
  '/mesh': { title: 'Mesh', Screen: lazy(() => import('./mesh/mesh-screen')) },
  '/credits': { title: 'Credits', Screen: lazy(() => import('./pages/credits')) },
};

export function App() {
  const path = usePathname();
  const found = SCREENS[path];
  const title = found?.title ?? 'Not found';
  useEffect(() => {
    document.title = path === '/' ? title : `${title} · GoComet DAW`;
  }, [path, title]);

  return (
    <Shell>
      <Guard key={path}>
        {found === undefined ? (
          <div className="page">
            <Empty title="There is nothing here">
              <a href="/" onClick={followLink}>
                Go to the start page
              </a>
            </Empty>
          </div>
        ) : (
          <Suspense fallback={null}>
            <found.Screen />
          </Suspense>
        )}
      </Guard>
    </Shell>
  );
}

/** Keeps the navigation alive when a screen breaks, for example because a new version replaced the files it loads. */
class Guard extends Component<{ children: ReactNode }, { broken: boolean }> {
  override state = { broken: false };

  static getDerivedStateFromError(): { broken: boolean } {
    return { broken: true };
  }

  override render() {
    if (!this.state.broken) return this.props.children;
    return (
      <div className="page" role="alert">
        <Empty title="This screen stopped working">What you did last may not have been finished. Loading the page again shows where things stand.</Empty>
        <div className="row centred">
          <Button kind="primary" onClick={() => window.location.reload()}>
            Load again
          </Button>
        </div>
      </div>
    );
  }
}
