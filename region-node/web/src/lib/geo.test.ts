import { describe, expect, it } from 'vitest';
import { bearing, circle, decodePolyline, distanceM, stepTowards } from './geo';

const ALIADOS = { lat: 41.1479, lng: -8.6111 };
const RIBEIRA = { lat: 41.1406, lng: -8.6132 };

describe('geo', () => {
  it('measures a walk through Porto', () => {
    expect(distanceM(ALIADOS, RIBEIRA)).toBeCloseTo(831, -1);
  });

  it('steps towards a target and stops on it', () => {
    const step = stepTowards(ALIADOS, RIBEIRA, 100);
    expect(distanceM(ALIADOS, step)).toBeCloseTo(100, 0);
    expect(stepTowards(step, RIBEIRA, 5000)).toEqual(RIBEIRA);
  });

  it('knows north from west', () => {
    expect(bearing(ALIADOS, { lat: 42, lng: ALIADOS.lng })).toBeCloseTo(0, 5);
    expect(bearing(ALIADOS, { lat: ALIADOS.lat, lng: -9 })).toBeCloseTo(270, 0);
  });

  it('draws a circle that is as wide as it says all around', () => {
    const corners = circle(ALIADOS, 500);
    expect(corners).toHaveLength(48);
    for (const corner of corners) expect(Math.abs(distanceM(ALIADOS, corner) - 500)).toBeLessThan(2);
  });

  it('decodes the polyline of the format’s own description', () => {
    expect(decodePolyline('_p~iF~ps|U_ulLnnqC_mqNvxq`@')).toEqual([
      [-120.2, 38.5],
      [-120.95, 40.7],
      [-126.453, 43.252],
    ]);
  });
});
