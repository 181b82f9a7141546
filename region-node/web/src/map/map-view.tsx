import { GeoJSONSource, LngLat, LngLatBounds, Map as MapLibre, Marker, setWorkerUrl } from 'maplibre-gl';
import workerUrl from 'maplibre-gl/dist/maplibre-gl-worker.mjs?worker&url';
import type { FeatureCollection } from 'geojson';
import { useEffect, useRef, useState } from 'react';
import { decodePolyline, distanceM, type Point } from '../lib/geo';
import { useTheme } from '../lib/theme';
import { Icon } from '../ui/icon';
import { cityAt, type City } from './cities';
import { markerElement, updateElement } from './marker';
import { buildStyle, BUSY_CAR_IMAGE, CAR_IMAGE, carImage, NOTHING } from './style';
import type { MapCar, MapLine, MapMarker, MapProps, MapShape } from './types';
import '../styles/map.css';

setWorkerUrl(workerUrl);

const GLIDE_MS = 900;
/** Cities fit; a company that opens its map wider than this gets it that wide. */
const WIDEST_ZOOM = 8;

function carFeatures(cars: readonly MapCar[]): FeatureCollection {
  return {
    type: 'FeatureCollection',
    features: cars.map((car) => ({
      type: 'Feature',
      properties: { heading: car.heading ?? 0, image: car.busy === true ? BUSY_CAR_IMAGE : CAR_IMAGE },
      geometry: { type: 'Point', coordinates: [car.lng, car.lat] },
    })),
  };
}

function lineFeatures(lines: readonly MapLine[]): FeatureCollection {
  return {
    type: 'FeatureCollection',
    features: lines.map(({ from, to }) => ({
      type: 'Feature',
      properties: {},
      geometry: {
        type: 'LineString',
        coordinates: [
          [from.lng, from.lat],
          [to.lng, to.lat],
        ],
      },
    })),
  };
}

function shapeFeatures(shapes: readonly MapShape[]): FeatureCollection {
  return {
    type: 'FeatureCollection',
    features: shapes.map(({ kind, label, weight, corners }) => ({
      type: 'Feature',
      properties: { kind, label, weight },
      geometry: { type: 'Polygon', coordinates: [[...corners, ...corners.slice(0, 1)].map(({ lat, lng }) => [lng, lat])] },
    })),
  };
}

const traceCache = new Map<string, Promise<FeatureCollection>>();

function tracesOf(city: City | null): Promise<FeatureCollection> {
  const url = city?.traces;
  if (url === undefined) return Promise.resolve(NOTHING);
  let traces = traceCache.get(url);
  if (traces === undefined) {
    traces = fetch(url)
      .then((response) => response.json() as Promise<string[]>)
      .then((encoded) => ({
        type: 'FeatureCollection' as const,
        features: [
          {
            type: 'Feature' as const,
            properties: {},
            geometry: { type: 'MultiLineString' as const, coordinates: encoded.map(decodePolyline) },
          },
        ],
      }))
      .catch(() => NOTHING);
    traceCache.set(url, traces);
  }
  return traces;
}

interface Placed {
  marker: Marker;
  frame: number;
}

/** Moves a marker in small steps, so that a car seen once a second still drives. */
function glide(placed: Placed, to: Point): void {
  cancelAnimationFrame(placed.frame);
  const from = placed.marker.getLngLat();
  const target = { lat: to.lat, lng: to.lng };
  const still = window.matchMedia('(prefers-reduced-motion: reduce)').matches;
  const far = distanceM({ lat: from.lat, lng: from.lng }, target) > 2000;
  if (still || far || document.visibilityState === 'hidden') {
    placed.marker.setLngLat(target);
    return;
  }
  const begun = performance.now();
  const step = (now: number): void => {
    const part = Math.min(1, (now - begun) / GLIDE_MS);
    placed.marker.setLngLat({ lat: from.lat + (target.lat - from.lat) * part, lng: from.lng + (target.lng - from.lng) * part });
    if (part < 1) placed.frame = requestAnimationFrame(step);
  };
  placed.frame = requestAnimationFrame(step);
}

export default function MapView(props: MapProps) {
  const { label, markers = [], cars = [], lines = [], shapes = [], fit = [], fitKey = '', message } = props;
  const { centre, zoom } = props.view;
  const holder = useRef<HTMLDivElement>(null);
  const [map, setMap] = useState<MapLibre | null>(null);
  const [failed, setFailed] = useState(false);
  const theme = useTheme();
  const city = cityAt(centre);
  const latest = useRef({ props, cars, lines, shapes });
  useEffect(() => {
    latest.current = { props, cars, lines, shapes };
  });

  // One map for the life of this component; everything else is told to it below.
  useEffect(() => {
    const container = holder.current;
    if (container === null) return;
    let made: MapLibre;
    try {
      made = new MapLibre({
        container,
        style: buildStyle(null, { traces: NOTHING, shapes: NOTHING, lines: NOTHING, cars: NOTHING }),
        center: [latest.current.props.view.centre.lng, latest.current.props.view.centre.lat],
        zoom: latest.current.props.view.zoom,
        maxZoom: 18,
        attributionControl: { compact: false },
        dragRotate: false,
        pitchWithRotate: false,
        touchPitch: false,
        fadeDuration: 0,
      });
    } catch {
      queueMicrotask(() => setFailed(true));
      return;
    }
    made.touchZoomRotate.disableRotation();
    const canvas = made.getCanvas();
    canvas.setAttribute('aria-label', latest.current.props.label);
    made.on('click', (event) => {
      const { lat, lng } = event.lngLat.wrap();
      latest.current.props.onPick?.({ lat, lng });
    });
    const viewport = (): void => {
      const middle = made.getCenter();
      const corner = made.getBounds().getNorthEast();
      latest.current.props.onViewport?.({
        centre: { lat: middle.lat, lng: middle.lng },
        radiusM: distanceM({ lat: middle.lat, lng: middle.lng }, { lat: corner.lat, lng: corner.lng }),
      });
    };
    made.on('moveend', viewport);
    made.on('load', viewport);
    queueMicrotask(() => setMap(made));
    return () => {
      setMap(null);
      made.remove();
    };
  }, []);

  useEffect(() => {
    map?.getCanvas().setAttribute('aria-label', label);
  }, [map, label]);

  // The theme and the city choose the style; what moves on it is carried over.
  useEffect(() => {
    if (map === null) return;
    let stale = false;
    void tracesOf(city).then((traces) => {
      if (stale) return;
      const { lines, cars, shapes } = latest.current;
      const shown = { traces, shapes: shapeFeatures(shapes), lines: lineFeatures(lines), cars: carFeatures(cars) };
      map.setStyle(buildStyle(city, shown), { diff: false });
      map.once('styledata', () => {
        if (!map.hasImage(CAR_IMAGE)) map.addImage(CAR_IMAGE, carImage('--accent', '#17191d'), { pixelRatio: 2 });
        if (!map.hasImage(BUSY_CAR_IMAGE)) map.addImage(BUSY_CAR_IMAGE, carImage('--map-line', '#ffffff'), { pixelRatio: 2 });
      });
    });
    return () => {
      stale = true;
    };
  }, [map, city, theme]);

  useEffect(() => {
    map?.setMinZoom(Math.min(WIDEST_ZOOM, zoom));
    map?.jumpTo({ center: [centre.lng, centre.lat], zoom });
  }, [map, centre.lat, centre.lng, zoom]);

  useEffect(() => {
    const source = map?.getSource('cars');
    if (source instanceof GeoJSONSource) void source.setData(carFeatures(cars));
  }, [map, cars]);

  useEffect(() => {
    const source = map?.getSource('lines');
    if (source instanceof GeoJSONSource) void source.setData(lineFeatures(lines));
  }, [map, lines]);

  useEffect(() => {
    const source = map?.getSource('shapes');
    if (source instanceof GeoJSONSource) void source.setData(shapeFeatures(shapes));
  }, [map, shapes]);

  const placed = useRef(new Map<string, Placed>());
  useEffect(() => {
    if (map === null) return;
    const known = placed.current;
    return () => {
      for (const one of known.values()) {
        cancelAnimationFrame(one.frame);
        one.marker.remove();
      }
      known.clear();
    };
  }, [map]);
  useEffect(() => {
    if (map === null) return;
    showMarkers(map, placed.current, markers, (id, point) => latest.current.props.onMarkerMove?.(id, point));
  }, [map, markers]);

  const fitOn = `${fitKey}:${fit.length}`;
  useEffect(() => {
    const points = latest.current.props.fit ?? [];
    const first = points[0];
    if (map === null || first === undefined) return;
    const bounds = new LngLatBounds(new LngLat(first.lng, first.lat), new LngLat(first.lng, first.lat));
    for (const point of points) bounds.extend([point.lng, point.lat]);
    map.fitBounds(bounds, { padding: { top: 72, bottom: 64, left: 72, right: 88 }, maxZoom: 15.5, duration: 500 });
  }, [map, fitOn]);

  return (
    <div className={props.onPick ? 'map picking' : 'map'}>
      <div ref={holder} className="map-canvas" />
      {failed ? (
        <p className="map-failed">The map cannot be drawn on this device. Everything can also be done by choosing places by name.</p>
      ) : (
        <>
          {message !== undefined && <p className="map-message">{message}</p>}
          {city === null && <p className="map-note">This app carries no streets of this area.</p>}
          <div className="map-zoom">
            <button type="button" className="icon-button" aria-label="Zoom in" onClick={() => map?.zoomIn()}>
              <Icon name="plus" />
            </button>
            <button type="button" className="icon-button" aria-label="Zoom out" onClick={() => map?.zoomOut()}>
              <Icon name="minus" />
            </button>
          </div>
        </>
      )}
    </div>
  );
}

function showMarkers(map: MapLibre, known: Map<string, Placed>, markers: readonly MapMarker[], moved: (id: string, point: Point) => void): void {
  const wanted = new Set(markers.map((marker) => marker.id));
  for (const [id, one] of known) {
    if (wanted.has(id)) continue;
    cancelAnimationFrame(one.frame);
    one.marker.remove();
    known.delete(id);
  }
  for (const marker of markers) {
    const one = known.get(marker.id);
    if (one === undefined) {
      const draggable = marker.draggable === true;
      const made = new Marker({ element: markerElement(marker), draggable }).setLngLat([marker.lng, marker.lat]).addTo(map);
      made.on('dragend', () => {
        const at = made.getLngLat().wrap();
        moved(marker.id, { lat: at.lat, lng: at.lng });
      });
      known.set(marker.id, { marker: made, frame: 0 });
      continue;
    }
    one.marker.setDraggable(marker.draggable === true);
    updateElement(one.marker.getElement(), marker);
    if (marker.kind === 'car' || marker.kind === 'me') glide(one, marker);
    else one.marker.setLngLat([marker.lng, marker.lat]);
  }
}
