import type { Point } from './geo';

/** The device's position, asked for once. */
export function locate(): Promise<Point> {
  return new Promise((resolve, reject) => {
    const geolocation = (navigator as Partial<Navigator>).geolocation;
    if (geolocation === undefined) {
      reject(new Error('this device has no geolocation'));
      return;
    }
    geolocation.getCurrentPosition(
      ({ coords }) => resolve({ lat: coords.latitude, lng: coords.longitude }),
      (refusal) => reject(new Error(refusal.message)),
      { enableHighAccuracy: true, timeout: 10_000, maximumAge: 10_000 },
    );
  });
}
