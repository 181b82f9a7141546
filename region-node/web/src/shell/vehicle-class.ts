const INITIALS = new Set(['xl', 'xxl', 'suv', 'ev', 'vip']);

/** "Standard", "XL", "Wheelchair van": the company's class in words. */
export function vehicleClassName(code: string): string {
  const words = code.split(/[-_]+/).filter(Boolean);
  const text = words.map((word) => (INITIALS.has(word) ? word.toUpperCase() : word)).join(' ');
  return text.charAt(0).toUpperCase() + text.slice(1);
}

/** The class chosen before anybody chooses. */
export function usualClass(classes: readonly string[]): string | null {
  return classes.includes('standard') ? 'standard' : (classes[0] ?? null);
}
