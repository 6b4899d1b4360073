// Where the services are: `/config.json` of the gateway, turned into URLs for this visitor.

export type Role = 'producer' | 'consumer';

/** `/config.json` as the gateway serves it. A null or absent URL means "this host, that port". */
export interface Config {
  role: Role;
  ws_port: number;
  ws_path: string;
  ap_port: number;
  sm_port: number;
  dsm_port: number;
  ws_url?: string | null;
  ap_url?: string | null;
  sm_url?: string | null;
  dsm_url?: string | null;
}

export interface Endpoints {
  ws: string;
  ap: string;
  sm: string;
  dsm: string;
}

/** The part of `window.location` that matters. */
export interface Place {
  protocol: string;
  hostname: string;
}

export function endpoints(config: Config, place: Place): Endpoints {
  const secure = place.protocol === 'https:';
  const http = (url: string | null | undefined, port: number) =>
    trimmed(url) ?? `${secure ? 'https' : 'http'}://${place.hostname}:${port}`;
  return {
    ws: trimmed(config.ws_url) ?? `${secure ? 'wss' : 'ws'}://${place.hostname}:${config.ws_port}${config.ws_path}`,
    ap: http(config.ap_url, config.ap_port),
    sm: http(config.sm_url, config.sm_port),
    dsm: http(config.dsm_url, config.dsm_port),
  };
}

export async function loadEndpoints(fetcher: typeof fetch, place: Place): Promise<Endpoints> {
  const response = await fetcher('/config.json', { cache: 'no-store', signal: AbortSignal.timeout(10_000) });
  if (!response.ok) throw new Error(`/config.json answered ${response.status}`);
  return endpoints((await response.json()) as Config, place);
}

function trimmed(url: string | null | undefined): string | null {
  return url ? url.replace(/\/+$/, '') : null;
}
