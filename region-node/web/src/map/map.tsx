import { lazy, Suspense } from 'react';
import type { MapMarker, MapProps, View } from './types';

// MapLibre is by far the largest part of the app: it comes with the first map shown.
const MapView = lazy(() => import('./map-view'));

type Props = Omit<MapProps, 'view'> & {
  /** Where it opens; undefined while that is not known yet, null if the company does not say. */
  view: View | null | undefined;
  /** Said in the place of the map until it is known where it opens. */
  waiting?: string | undefined;
};

export function Map({ view, waiting, ...rest }: Props) {
  const shown = view === null ? around(rest.markers?.[0]) : view;
  if (shown === null) {
    return <p className="map-placeholder">This company has not said where its map opens. It shows once there is a place to show.</p>;
  }
  if (shown === undefined && waiting !== undefined) return <p className="map-placeholder">{waiting}</p>;
  const loading = <div className="map-placeholder" role="status" aria-label="Loading the map" />;
  return shown === undefined ? (
    loading
  ) : (
    <Suspense fallback={loading}>
      <MapView view={shown} {...rest} />
    </Suspense>
  );
}

function around(marker: MapMarker | undefined): View | null {
  return marker === undefined ? null : { centre: { lat: marker.lat, lng: marker.lng }, zoom: 13 };
}
