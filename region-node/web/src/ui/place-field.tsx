import { useId, useRef, useState, type KeyboardEvent } from 'react';
import { search, type NamedPlace } from '../map/places';

interface PlaceFieldProps {
  label: string;
  /** What is chosen now, in words. */
  value: string;
  places: readonly NamedPlace[];
  placeholder: string;
  onChoose: (place: NamedPlace) => void;
  onFocus?: () => void;
}

/** Chooses a place by its name, with the keyboard alone if need be. */
export function PlaceField({ label, value, places, placeholder, onChoose, onFocus }: PlaceFieldProps) {
  const id = useId();
  const input = useRef<HTMLInputElement>(null);
  const [text, setText] = useState<string | null>(null);
  const [active, setActive] = useState(0);
  const open = text !== null;
  const found = open ? search(text, places) : [];
  const current = found[Math.min(active, found.length - 1)];

  const choose = (place: NamedPlace): void => {
    setText(null);
    onChoose(place);
  };
  const onKeyDown = (event: KeyboardEvent): void => {
    if (event.key === 'Escape') setText(null);
    if (event.key === 'ArrowDown' && !open) setText('');
    if (!open || found.length === 0) return;
    if (event.key === 'ArrowDown') setActive((active + 1) % found.length);
    else if (event.key === 'ArrowUp') setActive((active + found.length - 1) % found.length);
    else if (event.key === 'Enter' && current !== undefined) choose(current);
    else return;
    event.preventDefault();
  };

  return (
    <div className="field">
      <label htmlFor={id}>{label}</label>
      <div className="combobox">
        <input
          ref={input}
          id={id}
          className="input"
          role="combobox"
          autoComplete="off"
          aria-expanded={open}
          aria-controls={`${id}-options`}
          aria-autocomplete="list"
          aria-activedescendant={open && current !== undefined ? `${id}-${found.indexOf(current)}` : undefined}
          placeholder={placeholder}
          value={text ?? value}
          onChange={(event) => {
            setText(event.target.value);
            setActive(0);
          }}
          onFocus={(event) => {
            event.target.select();
            onFocus?.();
          }}
          onBlur={() => setText(null)}
          onKeyDown={onKeyDown}
        />
        <div id={`${id}-options`} role="listbox" aria-label={label} className={open ? 'options' : 'visually-hidden'}>
          {found.map((place, index) => (
            // Keys are handled by the input, which keeps the focus.
            // eslint-disable-next-line jsx-a11y/click-events-have-key-events
            <div
              key={`${place.name} ${place.lat} ${place.lng}`}
              id={`${id}-${index}`}
              role="option"
              tabIndex={-1}
              aria-selected={place === current}
              className="option"
              onPointerDown={(event) => event.preventDefault()}
              onClick={() => choose(place)}
            >
              {place.name}
            </div>
          ))}
          {open && found.length === 0 && <div className="option muted">No place of this name; pick it on the map.</div>}
        </div>
      </div>
    </div>
  );
}
