// @motience/client: everything an application uses.
export { backoff } from './backoff.ts';
export { Motience, type MotienceOptions } from './client.ts';
export { closing, type Closing } from './closing.ts';
export { Consumer, type ConsumerOptions, type ConsumerStatus } from './consumer/consumer.ts';
export type { ConsumerEvent, Ended, Gap, Reset, StreamRecord } from './consumer/events.ts';
export type { TransportKind } from './consumer/transport.ts';
export { whyNoWebTransport } from './consumer/webtransport.ts';
export { ApiError, RecordError, messageOf } from './errors.ts';
export { Observable, type Listener } from './observable.ts';
export { placesOf, type Places } from './places.ts';
export { Producer, type Acknowledged, type ProducerOptions, type ProducerStatus } from './producer/producer.ts';
export { Ap } from './rest/ap.ts';
export { Caller, type Answer, type Credentials } from './rest/caller.ts';
export { Dsm } from './rest/dsm.ts';
export { Sm } from './rest/sm.ts';
export type * from './rest/types.ts';
export { Session, claimsOf, type Identity, type SessionOptions, type Verdict } from './session.ts';
export type { Selection } from './selection.ts';
