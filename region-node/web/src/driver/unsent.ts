import type { Position } from '../api/calls';

/** As many positions the region takes at once. */
const MOST_AT_ONCE = 100;
/** An hour of driving without a connection; beyond it a trace becomes coarser, from its beginning to its end. */
const MOST_KEPT = 3600;

/** Positions of a running trip that the region has not acknowledged. They are sent again, since the fare is counted from them. */
export class Unsent {
  private positions: Position[] = [];

  get isEmpty(): boolean {
    return this.positions.length === 0;
  }

  /** What to send now: the oldest of those that wait, and this one. Whatever is not acknowledged has to be kept. */
  withOldest(newest: Position): Position[] {
    return [...this.positions.splice(0, MOST_AT_ONCE - 1), newest];
  }

  keep(failed: readonly Position[]): void {
    const all = [...this.positions, ...failed].sort((a, b) => (a.recorded_at < b.recorded_at ? -1 : 1));
    this.positions = all.filter((one, index) => one.recorded_at !== all[index - 1]?.recorded_at);
    if (this.positions.length > MOST_KEPT) {
      const last = this.positions.length - 1;
      this.positions = this.positions.filter((_, index) => (last - index) % 2 === 0);
    }
  }

  forget(): void {
    this.positions = [];
  }
}
