// Fails when src/api/schema.d.ts is not what `npm run api` would write from ../openapi.json.
import { readFile } from 'node:fs/promises';
import openapiTS, { astToString, COMMENT_HEADER } from 'openapi-typescript';

const document = new URL('../../openapi.json', import.meta.url);
const committed = await readFile(new URL('../src/api/schema.d.ts', import.meta.url), 'utf8');
const generated = COMMENT_HEADER + astToString(await openapiTS(document));
if (committed !== generated) {
  console.error('src/api/schema.d.ts is out of date with region-node/openapi.json: run `npm run api`.');
  process.exit(1);
}
