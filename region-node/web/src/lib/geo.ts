/** A place on earth in WGS 84 degrees. */
export interface Point {
  lat: number;
  lng: number;
}

const EARTH_RADIUS_M = 6_371_008.8;
const radians = (degrees: number): number => (degrees * Math.PI) / 180;

/** Great-circle distance. */
export function distanceM(a: Point, b: Point): number {
  const dLat = radians(b.lat - a.lat);
  const dLng = radians(b.lng - a.lng);
  const h = Math.sin(dLat / 2) ** 2 + Math.cos(radians(a.lat)) * Math.cos(radians(b.lat)) * Math.sin(dLng / 2) ** 2;
  return 2 * EARTH_RADIUS_M * Math.asin(Math.min(1, Math.sqrt(h)));
}

/** Initial compass bearing from one place to another, 0 to 360 degrees. */
export function bearing(a: Point, b: Point): number {
  const dLng = radians(b.lng - a.lng);
  const y = Math.sin(dLng) * Math.cos(radians(b.lat));
  const x =
    Math.cos(radians(a.lat)) * Math.sin(radians(b.lat)) -
    Math.sin(radians(a.lat)) * Math.cos(radians(b.lat)) * Math.cos(dLng);
  return ((Math.atan2(y, x) * 180) / Math.PI + 360) % 360;
}

/** The place `metres` further along the straight line to `target`, or the target itself when it is nearer than that. */
export function stepTowards(from: Point, target: Point, metres: number): Point {
  const distance = distanceM(from, target);
  if (distance <= metres) return { lat: target.lat, lng: target.lng };
  const part = metres / distance;
  return { lat: from.lat + (target.lat - from.lat) * part, lng: from.lng + (target.lng - from.lng) * part };
}

/** Corners all so far from a middle that they look like a circle. */
export function circle(centre: Point, radiusM: number, corners = 48): Point[] {
  const reach = (radiusM / EARTH_RADIUS_M) * (180 / Math.PI);
  const wide = reach / Math.cos(radians(centre.lat));
  return Array.from({ length: corners }, (_, corner) => {
    const turn = (2 * Math.PI * corner) / corners;
    return { lat: centre.lat + reach * Math.cos(turn), lng: centre.lng + wide * Math.sin(turn) };
  });
}

/** Decodes a Google encoded polyline of precision 5 into GeoJSON positions (longitude first). */
export function decodePolyline(encoded: string): [number, number][] {
  const positions: [number, number][] = [];
  let index = 0;
  let lat = 0;
  let lng = 0;
  const next = (): number => {
    let shift = 0;
    let value = 0;
    let byte: number;
    do {
      byte = encoded.charCodeAt(index++) - 63;
      value |= (byte & 31) << shift;
      shift += 5;
    } while (byte >= 32);
    return value & 1 ? ~(value >> 1) : value >> 1;
  };
  while (index < encoded.length) {
    lat += next();
    lng += next();
    positions.push([lng / 1e5, lat / 1e5]);
  }
  return positions;
}
