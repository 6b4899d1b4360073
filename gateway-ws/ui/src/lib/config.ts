// Where the services are: `config.json` beside the page, turned into URLs for this visitor.
import type { Places } from '@motience/client';
import type { Issuer } from './oidc.ts';

export type Role = 'producer' | 'consumer';

/** `config.json` as it is served. A null or absent URL means "this host, that port". */
export interface Config {
  role: Role | 'console';
  ws_port: number;
  ws_path: string;
  ap_port: number;
  sm_port: number;
  dsm_port: number;
  ws_url?: string | null;
  ap_url?: string | null;
  sm_url?: string | null;
  dsm_url?: string | null;
  webtransport_url?: string | null;
  /** Beside the console: the tester pages. */
  tester_url?: string | null;
  producer_page_url?: string | null;
  console_url?: string | null;
  /** Issuers at which people may log in. */
  issuers?: Issuer[];
}

export interface Endpoints extends Places {
  issuers: Issuer[];
  /** The WebSocket of the page's own role. */
  ws: string;
  testers: { consumer: string | null; producer: string | null; console: string | null; other: { name: string; url: string } | null };
}

/** The part of `window.location` that matters. */
export interface PageLocation {
  protocol: string;
  hostname: string;
  /** The page's own address, from which relative ones are seen. */
  href?: string;
}

export function endpoints(config: Config, location: PageLocation): Endpoints {
  const secure = location.protocol === 'https:';
  const http = (url: string | null | undefined, port: number) =>
    trimmed(url, location.href) ?? `${secure ? 'https' : 'http'}://${location.hostname}:${port}`;
  const ws = socket(trimmed(config.ws_url, location.href)) ?? `${secure ? 'wss' : 'ws'}://${location.hostname}:${config.ws_port}${config.ws_path}`;
  return {
    issuers: config.issuers ?? [],
    ws,
    ap: http(config.ap_url, config.ap_port),
    sm: http(config.sm_url, config.sm_port),
    dsm: http(config.dsm_url, config.dsm_port),
    ...(config.role === 'producer' ? { wss1: ws } : { wss2: ws }),
    webtransport: config.webtransport_url ?? null,
    testers: { consumer: config.tester_url ?? null, producer: config.producer_page_url ?? null, console: config.console_url ?? null, other: otherTester(config) },
  };
}

/** The tester of the other side. */
function otherTester({ role, tester_url, producer_page_url }: Config): Endpoints['testers']['other'] {
  if (role === 'producer') return tester_url ? { name: 'Consumer tester', url: tester_url } : null;
  return producer_page_url ? { name: 'Producer tester', url: producer_page_url } : null;
}

export async function loadEndpoints(fetcher: typeof fetch, location: PageLocation): Promise<Endpoints> {
  // Relative: the console is served at several paths.
  const response = await fetcher('config.json', { cache: 'no-store', signal: AbortSignal.timeout(10_000) });
  if (!response.ok) throw new Error(`config.json answered ${response.status}`);
  return endpoints((await response.json()) as Config, location);
}

/** The scheme of a socket at an address of HTTP. */
function socket(url: string | null): string | null {
  return url?.replace(/^http/, 'ws') ?? null;
}

/** A URL without a slash at its end; a relative one is seen from the page. */
function trimmed(url: string | null | undefined, page?: string): string | null {
  return url ? new URL(url, page).href.replace(/\/+$/, '') : null;
}
