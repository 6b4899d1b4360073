// Says of lib/cjs that it is CommonJS: the package itself is not.
import { writeFileSync } from 'node:fs';

writeFileSync(new URL('../lib/cjs/package.json', import.meta.url), '{ "type": "commonjs" }\n');
