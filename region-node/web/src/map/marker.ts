import type { MapMarker } from './types';

const SHAPES: Record<MapMarker['kind'], string> = {
  pickup:
    '<svg viewBox="0 0 32 32" aria-hidden="true"><circle cx="16" cy="16" r="10" fill="#17191d"/><circle cx="16" cy="16" r="4" fill="#fff"/><circle cx="16" cy="16" r="11" fill="none" stroke="#fff" stroke-width="2"/></svg>',
  dropoff:
    '<svg viewBox="0 0 32 32" aria-hidden="true"><rect x="6" y="6" width="20" height="20" rx="4" fill="#17191d" stroke="#fff" stroke-width="2"/><rect x="12" y="12" width="8" height="8" fill="#ffc533"/></svg>',
  car: '<svg viewBox="0 0 32 32" aria-hidden="true"><rect x="9" y="3" width="14" height="26" rx="5.5" fill="#ffc533" stroke="#17191d" stroke-width="2"/><rect x="11.5" y="9" width="9" height="5" rx="1.5" fill="#17191d"/><rect x="11.5" y="21" width="9" height="3.5" rx="1.5" fill="#17191d"/></svg>',
  me: '<svg viewBox="0 0 32 32" aria-hidden="true"><rect x="9" y="3" width="14" height="26" rx="5.5" fill="#ffc533" stroke="#17191d" stroke-width="2"/><rect x="11.5" y="9" width="9" height="5" rx="1.5" fill="#17191d"/><rect x="11.5" y="21" width="9" height="3.5" rx="1.5" fill="#17191d"/></svg>',
};

/** The element of a marker: its shape, which turns with the heading, and a label which doesn't. */
export function markerElement(marker: MapMarker): HTMLElement {
  const element = document.createElement('div');
  element.setAttribute('role', 'img');
  const shape = document.createElement('div');
  shape.innerHTML = SHAPES[marker.kind];
  shape.dataset['part'] = 'shape';
  element.append(shape);
  updateElement(element, marker);
  return element;
}

export function updateElement(element: HTMLElement, marker: MapMarker): void {
  element.classList.add('marker');
  element.classList.toggle('draggable', marker.draggable === true);
  element.setAttribute('aria-label', marker.label);
  element.dataset['kind'] = marker.kind;
  element.dataset['lat'] = marker.lat.toFixed(5);
  element.dataset['lng'] = marker.lng.toFixed(5);
  const shape = element.querySelector<HTMLElement>('[data-part=shape]');
  if (shape !== null) {
    const turns = marker.kind === 'car' || marker.kind === 'me';
    shape.style.transform = turns && marker.heading != null ? `rotate(${marker.heading}deg)` : '';
  }
  let label = element.querySelector<HTMLElement>('.marker-label');
  if (marker.showLabel === true) {
    if (label === null) {
      label = document.createElement('div');
      label.className = 'marker-label';
      label.setAttribute('aria-hidden', 'true');
      element.append(label);
    }
    label.textContent = marker.label;
  } else {
    label?.remove();
  }
}
