// Empties lib/, so that a file that was renamed does not stay in the package.
import { rmSync } from 'node:fs';

rmSync(new URL('../lib', import.meta.url), { recursive: true, force: true });
