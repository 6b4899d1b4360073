// The counters of the gateway that serves this page.
import { Caller } from '@motience/client';

export interface GatewayStats {
  connections: number;
  records: number;
  bytes: number;
  uptime_seconds: number;
}

const caller = new Caller();

export function gatewayStats(): Promise<GatewayStats> {
  return caller.json('GET', 'stats');
}
