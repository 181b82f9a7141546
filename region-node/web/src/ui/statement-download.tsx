import { useState } from 'react';
import { statementFile, type StatementFormat } from '../api/calls';
import type { Client } from '../api/client';
import { useAction } from '../lib/hooks';
import { MONTHS, monthsSpan, type Month } from '../lib/months';
import { saveFile } from '../lib/save-file';
import { Button, Segments } from './controls';
import { ErrorNote } from './error-note';

/** Downloads a statement of a month: a driver's, or the company's own where no driver is named. */
export function StatementDownload({ client, driver }: { client: Client; driver?: string }) {
  const [month, setMonth] = useState<Month>('this');
  const download = useAction(async (format: StatementFormat) => {
    const { from, to, name } = monthsSpan(month, new Date());
    const file = await statementFile(client, { from: from.toISOString(), to: to.toISOString() }, format, driver);
    saveFile(await file.blob(), `statement-${name}.${format}`);
  });
  return (
    <div className="stack-s">
      <Segments legend="Statement of" value={month} options={MONTHS} onChange={setMonth} />
      <div className="row">
        <Button compact busy={download.busy} onClick={() => void download.run('pdf')}>
          Statement as PDF
        </Button>
        <Button compact busy={download.busy} onClick={() => void download.run('csv')}>
          Statement as table (CSV)
        </Button>
      </div>
      <ErrorNote error={download.error} />
    </div>
  );
}
