/** "4 min" or "1 h 5 min"; below a minute the seconds. */
export function formatDuration(seconds: number): string {
  if (seconds < 60) return `${Math.max(0, Math.round(seconds))} s`;
  const minutes = Math.round(seconds / 60);
  if (minutes < 60) return `${minutes} min`;
  return `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
}

/** "850 m" or "3.2 km". */
export function formatDistance(metres: number): string {
  if (metres < 1000) return `${Math.round(metres)} m`;
  return `${(metres / 1000).toFixed(metres < 10_000 ? 1 : 0)} km`;
}

/** "14:05:09" today, "21 Nov, 14:05" on another day. */
export function formatTime(instant: string, now: Date = new Date(), locale?: string): string {
  const at = new Date(instant);
  if (Number.isNaN(at.getTime())) return instant;
  if (at.toDateString() === now.toDateString()) return at.toLocaleTimeString(locale);
  return at.toLocaleString(locale, { day: 'numeric', month: 'short', hour: '2-digit', minute: '2-digit' });
}

/** Whole seconds until an instant, never below zero. */
export function secondsUntil(instant: string, now: number): number {
  return Math.max(0, Math.ceil((Date.parse(instant) - now) / 1000));
}
