import type { Point } from '../lib/geo';

export interface MapMarker extends Point {
  id: string;
  kind: 'pickup' | 'dropoff' | 'car' | 'me';
  /** Said to screen readers and shown above the marker when `showLabel`. */
  label: string;
  showLabel?: boolean;
  heading?: number | null | undefined;
  draggable?: boolean;
}

export interface MapCar extends Point {
  heading?: number | null | undefined;
  /** A car with somebody to drive looks different from one that waits. */
  busy?: boolean;
}

export interface MapLine {
  from: Point;
  to: Point;
}

/** A part of the map with something to say of it. */
export interface MapShape {
  id: string;
  kind: 'zone' | 'surge';
  /** In the order in which one walks around. */
  corners: readonly Point[];
  label: string;
  /** How much it stands out, 0 to 1. */
  weight: number;
}

export interface MapViewport {
  centre: Point;
  radiusM: number;
}

/** Where a map opens. */
export interface View {
  centre: Point;
  zoom: number;
}

export interface MapProps {
  /** What the map shows, for those who cannot see it. */
  label: string;
  view: View;
  markers?: readonly MapMarker[];
  cars?: readonly MapCar[];
  lines?: readonly MapLine[];
  shapes?: readonly MapShape[];
  /** Moves the view so that all of these show, whenever their number or `fitKey` changes. */
  fit?: readonly Point[];
  fitKey?: string;
  /** Shown at the lower edge: what a click does now. */
  message?: string | undefined;
  onPick?: ((point: Point) => void) | undefined;
  onMarkerMove?: (id: string, point: Point) => void;
  onViewport?: (viewport: MapViewport) => void;
}
