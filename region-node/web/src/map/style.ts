import type { FeatureCollection } from 'geojson';
import type { ExpressionSpecification, LayerSpecification, SourceSpecification, StyleSpecification } from 'maplibre-gl';
import type { City } from './cities';

export const NOTHING: FeatureCollection = { type: 'FeatureCollection', features: [] };

/** The images of cars on the map, drawn by `carImage`: free ones, and those with a ride or an offer. */
export const CAR_IMAGE = 'car';
export const BUSY_CAR_IMAGE = 'busy-car';

const FONT = ['sans-serif'];

function token(name: string): string {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

/** The whole style by hand: own GeoJSON only, no tiles, glyphs or sprites, so that nothing is asked of anybody else. */
export function buildStyle(city: City | null, shown: Record<'traces' | 'shapes' | 'lines' | 'cars', FeatureCollection>): StyleSpecification {
  const sources: Record<string, SourceSpecification> = {
    traces: { type: 'geojson', data: shown.traces },
    shapes: { type: 'geojson', data: shown.shapes },
    lines: { type: 'geojson', data: shown.lines },
    cars: { type: 'geojson', data: shown.cars },
  };
  const layers: LayerSpecification[] = [
    {
      id: 'ground',
      type: 'background',
      paint: { 'background-color': token(city?.ground === 'water' ? '--map-water' : '--map-land') },
    },
  ];
  if (city?.areas !== undefined) {
    sources['areas'] = { type: 'geojson', data: city.areas, attribution: city.attribution };
    const fill = city.ground === 'water' ? '--map-land' : '--map-area';
    layers.push(
      { id: 'areas', type: 'fill', source: 'areas', paint: { 'fill-color': token(fill), 'fill-antialias': false } },
      { id: 'area-edges', type: 'line', source: 'areas', paint: { 'line-color': token('--map-area-line'), 'line-width': 1 } },
    );
  }
  if (city?.background !== undefined) {
    sources['background'] = { type: 'geojson', data: city.background };
    layers.push(...background());
  }
  if (city?.traces !== undefined) {
    layers.push({
      id: 'traces',
      type: 'line',
      source: 'traces',
      layout: { 'line-join': 'round' },
      paint: { 'line-color': token('--map-trace'), 'line-width': zoomed(11, 0.5, 16, 2), 'line-opacity': 0.25 },
    });
  }
  if (city !== null) {
    sources['roads'] = { type: 'geojson', data: city.roads, attribution: city.attribution };
    layers.push(...roads());
  }
  layers.push(...shapes(), ...labels(city));
  layers.push(
    {
      id: 'lines',
      type: 'line',
      source: 'lines',
      layout: { 'line-cap': 'round' },
      paint: { 'line-color': token('--map-line'), 'line-width': 2.5, 'line-dasharray': [0.5, 2], 'line-opacity': 0.9 },
    },
    {
      id: 'cars-dots',
      type: 'circle',
      source: 'cars',
      maxzoom: 12,
      paint: { 'circle-radius': 3.5, 'circle-color': ['case', ['==', ['get', 'image'], BUSY_CAR_IMAGE], token('--map-line'), token('--accent')], 'circle-stroke-color': '#17191d', 'circle-stroke-width': 1 },
    },
    {
      id: 'cars',
      type: 'symbol',
      source: 'cars',
      minzoom: 12,
      layout: {
        'icon-image': ['get', 'image'],
        'icon-rotate': ['get', 'heading'],
        'icon-rotation-alignment': 'map',
        'icon-allow-overlap': true,
        'icon-size': zoomed(12, 0.6, 16, 1),
      },
    },
  );
  return { version: 8, sources, layers };
}

function background(): LayerSpecification[] {
  const kind = (name: string): ExpressionSpecification => ['==', ['get', 'k'], name];
  return [
    { id: 'water', type: 'fill', source: 'background', filter: kind('water'), paint: { 'fill-color': token('--map-water') } },
    { id: 'parks', type: 'fill', source: 'background', filter: kind('park'), paint: { 'fill-color': token('--map-park') } },
    {
      id: 'waterways',
      type: 'line',
      source: 'background',
      filter: ['in', ['get', 'k'], ['literal', ['river', 'coast']]],
      paint: { 'line-color': token('--map-water'), 'line-width': 2 },
    },
    {
      id: 'rail',
      type: 'line',
      source: 'background',
      filter: kind('rail'),
      paint: { 'line-color': token('--map-rail'), 'line-width': 1.2, 'line-dasharray': [3, 2] },
    },
  ];
}

function roads(): LayerSpecification[] {
  const width = (from: number, to: number, extra: number): ExpressionSpecification => [
    'interpolate',
    ['exponential', 1.5],
    ['zoom'],
    11,
    ['-', from + extra / 2, ['*', 0.2, ['get', 'c']]],
    17,
    ['-', to + extra, ['*', 2, ['get', 'c']]],
  ];
  const layout = { 'line-cap': 'round', 'line-join': 'round' } as const;
  return [
    {
      id: 'road-casings',
      type: 'line',
      source: 'roads',
      layout,
      paint: { 'line-color': token('--map-road-casing'), 'line-width': width(1.6, 20, 2) },
    },
    {
      id: 'roads',
      type: 'line',
      source: 'roads',
      layout,
      paint: {
        'line-color': ['case', ['<=', ['get', 'c'], 2], token('--map-road-major'), token('--map-road')],
        'line-width': width(1.2, 20, 0),
      },
    },
  ];
}

function shapes(): LayerSpecification[] {
  const colour: ExpressionSpecification = ['case', ['==', ['get', 'kind'], 'surge'], token('--map-surge'), token('--map-zone')];
  return [
    {
      id: 'shapes',
      type: 'fill',
      source: 'shapes',
      paint: { 'fill-color': colour, 'fill-opacity': ['interpolate', ['linear'], ['get', 'weight'], 0, 0.08, 1, 0.5] },
    },
    { id: 'shape-edges', type: 'line', source: 'shapes', paint: { 'line-color': colour, 'line-width': 1.5, 'line-opacity': 0.8 } },
    {
      id: 'shape-names',
      type: 'symbol',
      source: 'shapes',
      minzoom: 11,
      layout: { 'text-field': ['get', 'label'], 'text-font': FONT, 'text-size': 13, 'text-max-width': 9, 'text-allow-overlap': true },
      paint: { 'text-color': token('--ink'), 'text-halo-color': token('--map-halo'), 'text-halo-width': 1.6 },
    },
  ];
}

function labels(city: City | null): LayerSpecification[] {
  const paint = { 'text-color': token('--map-text'), 'text-halo-color': token('--map-halo'), 'text-halo-width': 1.4 };
  const layers: LayerSpecification[] = [];
  if (city?.areas !== undefined) {
    layers.push({
      id: 'area-names',
      type: 'symbol',
      source: 'areas',
      minzoom: 12.5,
      layout: { 'text-field': ['get', 'name'], 'text-font': FONT, 'text-size': 11, 'text-max-width': 8, 'text-padding': 12 },
      paint,
    });
  }
  if (city !== null) {
    layers.push({
      id: 'road-names',
      type: 'symbol',
      source: 'roads',
      minzoom: 15,
      layout: { 'symbol-placement': 'line', 'text-field': ['get', 'name'], 'text-font': FONT, 'text-size': 11 },
      paint,
    });
  }
  return layers;
}

function zoomed(fromZoom: number, from: number, toZoom: number, to: number): ExpressionSpecification {
  return ['interpolate', ['linear'], ['zoom'], fromZoom, from, toZoom, to];
}

/** A car seen from above, heading north. */
export function carImage(body: string, edge: string): ImageData {
  const size = 48;
  const canvas = document.createElement('canvas');
  canvas.width = size;
  canvas.height = size;
  const pen = canvas.getContext('2d');
  if (pen === null) return new ImageData(size, size);
  pen.fillStyle = token(body);
  pen.strokeStyle = edge;
  pen.lineWidth = 3;
  pen.beginPath();
  pen.roundRect(14, 5, 20, 38, 8);
  pen.fill();
  pen.stroke();
  pen.fillStyle = '#17191d';
  pen.beginPath();
  pen.roundRect(17.5, 14, 13, 7, 2);
  pen.roundRect(17.5, 31, 13, 5, 2);
  pen.fill();
  return pen.getImageData(0, 0, size, size);
}
