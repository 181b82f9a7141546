import { lazy, Suspense } from 'react';
import type { MapProps } from './types';

// MapLibre is by far the largest part of the app: it comes with the first map shown.
const MapView = lazy(() => import('./map-view'));

export function Map(props: MapProps) {
  return (
    <Suspense fallback={<div className="map-placeholder" role="status" aria-label="Loading the map" />}>
      <MapView {...props} />
    </Suspense>
  );
}
