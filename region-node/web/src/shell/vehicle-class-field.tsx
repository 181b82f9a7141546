import { Segments } from '../ui/controls';
import { vehicleClassName } from './vehicle-class';

interface VehicleClassFieldProps {
  classes: readonly string[];
  value: string;
  onChange: (value: string) => void;
}

/** Chooses among the company's vehicle classes; where there is only one, there is nothing to choose. */
export function VehicleClassField({ classes, value, onChange }: VehicleClassFieldProps) {
  if (classes.length < 2) return null;
  const options = classes.map((code) => ({ value: code, label: vehicleClassName(code) }));
  return <Segments legend="Vehicle class" value={value} options={options} onChange={onChange} />;
}
