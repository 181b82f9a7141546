import { useId, useState, type SubmitEvent } from 'react';
import { Button, Field } from '../ui/controls';
import { pathOf } from './compare';
import { kind, textOf, valueFrom } from './edit';

interface SettingEditorProps {
  keys: readonly string[];
  value: unknown;
  busy: boolean;
  onSave: (value: unknown) => void;
  onRemove?: (() => void) | undefined;
  onCancel: () => void;
}

/** Changes one setting in its row. */
export function SettingEditor({ keys, value, busy, onSave, onRemove, onCancel }: SettingEditorProps) {
  const id = useId();
  const [text, setText] = useState(() => textOf(value));
  const typed = valueFrom(text, value);
  const wrong = typed === undefined;
  const submit = (event: SubmitEvent<HTMLFormElement>): void => {
    event.preventDefault();
    if (!wrong) onSave(typed);
  };
  const input = {
    id,
    className: 'input',
    'aria-label': `New value of ${pathOf(keys)}`,
    'aria-invalid': wrong,
    'aria-describedby': `${id}-wrong`,
    value: text,
  };

  return (
    <form className="stack-s setting-editor" onSubmit={submit}>
      {typeof value === 'boolean' ? (
        <select {...input} onChange={(event) => setText(event.target.value)}>
          <option>true</option>
          <option>false</option>
        </select>
      ) : (
        <input {...input} autoComplete="off" spellCheck={false} onChange={(event) => setText(event.target.value)} />
      )}
      <span id={`${id}-wrong`} role="status" className="small error-text">
        {wrong && `This must be ${kind(value)}.`}
      </span>
      <div className="row">
        <Button type="submit" compact kind="primary" busy={busy} disabled={wrong || text === textOf(value)}>
          Save
        </Button>
        <Button compact kind="quiet" onClick={onCancel}>
          Cancel
        </Button>
        {onRemove && (
          <Button compact kind="danger" busy={busy} onClick={onRemove}>
            Remove
          </Button>
        )}
      </div>
    </form>
  );
}

/** Adds a label, which is free for the company's own use. */
export function LabelForm({ busy, onAdd }: { busy: boolean; onAdd: (name: string, value: string) => Promise<boolean> }) {
  const [name, setName] = useState('');
  const [value, setValue] = useState('');
  const submit = (event: SubmitEvent<HTMLFormElement>): void => {
    event.preventDefault();
    void onAdd(name.trim(), value.trim()).then((added) => {
      if (!added) return;
      setName('');
      setValue('');
    });
  };
  return (
    <form className="card stack" aria-labelledby="add-label" onSubmit={submit}>
      <div className="stack-s">
        <h2 id="add-label">Add a label</h2>
        <p className="small muted">Labels are free for your own use; they change nothing about how rides run.</p>
      </div>
      <div className="field-row">
        <Field label="Label" value={name} required maxLength={80} autoComplete="off" onChange={(event) => setName(event.target.value)} />
        <Field label="Text" value={value} required maxLength={200} autoComplete="off" onChange={(event) => setValue(event.target.value)} />
      </div>
      <div>
        <Button type="submit" compact busy={busy} disabled={name.trim() === '' || value.trim() === ''}>
          Add label
        </Button>
      </div>
    </form>
  );
}
