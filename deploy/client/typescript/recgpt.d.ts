/**
 * Types of the RecGPT API 0.2.0, made from docs/openapi.json by `make api`: do not edit.
 *
 * `Operations["POST /recall"]["body"]` is what an operation takes, `["answer"]` what it gives.
 */

/** A time after which an item of the history may be returned again. */
export interface AfterDays {
  /** days since then */
  after_days: number;
}

/** The arm of a user in an experiment. */
export interface Arm {
  experiment: string;
  arm: string;
  /** version of each team; present if two versions are interleaved */
  versions?: Record<string, string> | null;
}

/** The answers of an arm of an experiment. */
export interface ArmExposures {
  experiment: string;
  arm: string;
  answers: number;
  users: number;
  /** answers that held popular items only */
  degraded: number;
  /** answers by each version */
  versions: Record<string, number>;
}

/** A version that an arm of an experiment names. */
export interface ArmVersion {
  version: string;
  /** whether it answers recalls; if not, the served version does */
  loaded: boolean;
  /** why it is not loaded; null: it is, or an engine is loading it */
  problem: string | null;
}

/** Several recalls in one request. */
export interface BatchRequest {
  requests: Array<RecallRequest>;
}

/** Answers in the order of the requests. */
export interface BatchResponse {
  results: Array<RecallResponse>;
}

/** One recalled item. */
export interface Candidate {
  item_id: string;
  /** inner product with the interest, six decimals; 0: back-filled */
  score: number;
  /** number of the interest, from 0; -1: a back-filled popular item */
  interest: number;
  /** arm that picked it; present in an interleaved experiment */
  team?: string | null;
  /** present if with_metadata was given */
  metadata?: Record<string, unknown> | null;
}

/** The most items of an answer that have the same value of an attribute. */
export interface CapBody {
  /** a category, categories, or a flag */
  field: string;
  /** items with the same value, at most */
  per_value: number;
}

/** A condition on one attribute. An item without a value does not match. */
export interface Condition {
  /** name of an attribute of the items */
  field: string;
  /** the item has one of these values: strings, numbers, or true and false */
  in?: Array<string | boolean | number> | null;
  /** the value is above this number or time (ISO 8601) */
  gt?: number | string | null;
  /** … at least this */
  gte?: number | string | null;
  /** … below this */
  lt?: number | string | null;
  /** … at most this */
  lte?: number | string | null;
}

/** The outcome of a deletion. */
export interface DeletedResponse {
  /** false: the store had nothing of this user */
  deleted: boolean;
}

/** An interaction of a user with an item. */
export interface Event {
  user_id: string;
  item_id: string;
  /** click, view, purchase, like, dislike, skip, impression, or one of your own; the table of event types says what it does */
  type?: string;
  /** seconds since 1970, or ISO 8601; orders the events of one request, and tells an event that is sent again from a new one; without it, the time of arrival is stored */
  timestamp?: number | string | null;
  /** request_id of the recall that offered the item */
  request_id?: string | null;
  /** price, rating, …: stored with the event */
  value?: number | null;
  /** seconds for which the item was watched or heard: stored with the event */
  watch_seconds?: number | null;
}

/** Events that are acknowledged together. */
export interface EventsRequest {
  events: Array<Event>;
}

/** Events that need not be sent again, and those that were not stored. */
export interface EventsResponse {
  /** events that are acknowledged: do not send them again */
  accepted: number;
  /** those of them whose type is stored, which impressions are as offers only; an offer of a user without a history has no effect and is not kept */
  stored: number;
  /** for 207: the events that were not stored, and what to do with each */
  errors?: Array<FieldProblem>;
}

/** The experiments that run. */
export interface ExperimentsResponse {
  experiments: Array<Running>;
  /** versions that arms name, and whether they answer recalls */
  versions: Array<ArmVersion>;
  /** why the file, which has changed, is not used: these are the ones before */
  problem?: string | null;
}

/** Candidates, and the steps behind them. */
export interface ExplainedResponse {
  request_id: string;
  /** version of the bundle that answered; the control's, if two are interleaved */
  version: string;
  items: Array<Candidate>;
  /** whether only popular items could be returned */
  degraded: boolean;
  degraded_reason: "no_history" | "unknown_items" | "store_unavailable" | "unreadable_history" | null;
  /** with page_size: asks for the next page; null: there is none */
  cursor?: string | null;
  /** items of the history that the bundle does not hold */
  unknown_items: number;
  /** present if a filter was given */
  filter?: FilterEffect | null;
  /** present if caps, diversity or fresh were given */
  variety?: VarietyEffect | null;
  /** present if the user takes part in experiments */
  experiments?: Array<Arm> | null;
  explanation: ExplanationSteps;
}

/** The steps behind an answer. */
export interface ExplanationSteps {
  /** as the network read it, oldest item first */
  history: Array<HistoryItem>;
  interests: Array<InterestSteps>;
  /** for each candidate the items of the history with the most similar vectors */
  related: Array<Array<string>>;
}

/** Answers to users of experiments, by arm. The log of the experiments is counted. */
export interface ExposuresResponse {
  since: string;
  /** false: there are more than 20,000 answers, and the newest are not counted */
  complete: boolean;
  arms: Array<ArmExposures>;
}

/** One thing that is wrong with the body. */
export interface FieldProblem {
  /** path of the field */
  where: string;
  /** what is wrong with it */
  problem: string;
}

/** Conditions that an item must meet to be returned. */
export interface Filter {
  /** it meets all of them */
  all?: Array<Condition>;
  /** it meets at least one of them */
  any?: Array<Condition>;
  /** it meets none of them */
  none?: Array<Condition>;
}

/** The effect of the request's filter. */
export interface FilterEffect {
  /** items of the catalogue that the filter allows */
  matched: number;
  /** whether fewer than k items are returned, because no others are left */
  exhausted: boolean;
}

/** A share of the answer that is for new items. */
export interface Fresh {
  /** a time or a number */
  field: string;
  /** of the candidates, at least */
  share: number;
  /** new items have at least this number or time (ISO 8601) */
  gte?: number | string | null;
  /** new items have a time within these days before now, to the hour */
  within_days?: number | null;
}

/** An item of the history that the network read. */
export interface HistoryItem {
  item_id: string;
  /** present if with_metadata was given */
  metadata?: Record<string, unknown> | null;
}

/** An item that an interest found. */
export interface Hit {
  item_id: string;
  /** present if with_metadata was given */
  metadata?: Record<string, unknown> | null;
  /** inner product with the interest */
  score: number;
}

/** The quality of the search at one depth. */
export interface IndexDepth {
  /** lists that are searched; 0: the whole catalogue */
  lists: number;
  /** whether a recall of this many hits searches them */
  served: boolean;
  /** share of the exact hits that are found, a mean */
  recall: number;
  /** milliseconds of the search for one interest alone, the median */
  ms: number;
}

/** The quality of the served index, by depth. */
export interface IndexQualityResponse {
  version: string;
  /** gpu: the search of a GPU, which is not measured */
  kind: "exact" | "ivf" | "gpu";
  items: number;
  /** lists of the index; 0: it has none */
  lists: number;
  hits: number;
  /** interests of users that the export kept; 0: none */
  sample: number;
  /** interests that this call measured */
  measured: number;
  /** the fewest lists first */
  depths: Array<IndexDepth>;
}

/** One interest: what it found, and what was offered next. */
export interface InterestSteps {
  /** its best items, whatever the other interests found */
  hits: Array<Hit>;
  /** the item that was offered before the next interest; null for the last one */
  offer: string | null;
}

/** New values of attributes; null brings the value of the bundle back. */
export type ItemPatch = Record<string, unknown>;

/** An item as it is now. */
export interface ItemResponse {
  item_id: string;
  /** version of the bundle that has the item */
  version: string;
  /** whether no answer holds the item */
  hidden: boolean;
  /** its attributes, without those that are null */
  attributes: Record<string, unknown>;
  /** attributes whose value is not the bundle's */
  changed: Array<string>;
  /** values in the store that are ignored, and why: of unknown attributes, or of another kind */
  ignored: Array<string>;
}

/** Items whose places on the map are wanted, and the number of others beside them. */
export interface MapRequest {
  /** ids of items to look up */
  items?: Array<string>;
  /** items of the catalogue beside them, always the same */
  others?: number;
  /** version whose map is wanted, which must answer recalls; null: the served one */
  version?: string | null;
}

/** The catalogue as a map, on which similar items lie near each other. */
export interface MapResponse {
  version: string;
  /** false: the bundle was exported without a map */
  available: boolean;
  /** items of the catalogue */
  catalogue: number;
  /** those of the wanted items that the bundle has */
  items: Array<Place>;
  others: Array<TitledPlace>;
}

/** An item of a history in the request, and what the user did with it. */
export interface PastItem {
  item_id: string;
  /** type of the event, which a network that was trained with it reads */
  type: string;
}

/** An item on the map. */
export interface Place {
  item_id: string;
  /** from -1 to 1 */
  x: number;
  y: number;
}

/** A problem document (RFC 9457). */
export interface Problem {
  /** kind of problem */
  type?: string;
  /** the status in words */
  title: string;
  status: number;
  /** what went wrong, and what to do */
  detail: string;
  request_id: string;
  /** the problems field by field */
  errors?: Array<FieldProblem>;
}

/** This process can answer recalls. */
export interface Ready {
  ready: boolean;
  /** version of the bundle that is served */
  version: string;
  /** unavailable: recalls of stored histories return popular items */
  store: "available" | "unavailable";
}

/** A user, a session or seeds, and the number of candidates wanted for them. */
export interface RecallRequest {
  /** the caller's own id of the user, a string; may be left out beside `history` or `seeds` */
  user_id?: string | null;
  /** number of candidates wanted */
  k?: number;
  /** item ids, oldest first, used instead of the stored history; {item_id, type} in place of an id says what the user did with the item */
  history?: Array<string | PastItem> | null;
  /** items that candidates should be like, as ids or as {item_id, weight}: the network reads them as the newest events of the history, the heaviest last */
  seeds?: Array<string | Seed>;
  /** item ids that the user was shown since the newest event and did not take, oldest first: further interests read the newest of them, behind the history */
  offers?: Array<string>;
  /** item ids that are not to be returned */
  exclude?: Array<string>;
  /** interests to generate; by default as many as the bundle says */
  interests?: number | null;
  /** return popular items in place of those of interests: a baseline for experiments; the history still excludes its items */
  popular?: boolean;
  /** whether items of the history may be returned again: never, allow (at once), or after some days since their latest event. Items in `exclude`, and those that the user disliked, are never returned */
  repeats?: "never" | "allow" | AfterDays;
  /** what the user shall do with the items, such as like: a type of events that the bundle's network can be asked for; by default the one that the bundle says */
  outcome?: string | null;
  /** conditions on the attributes of the items */
  filter?: Filter | null;
  /** the most items with the same value of an attribute; an item without a value is held back by none */
  caps?: Array<CapBody>;
  /** the weight of being unlike the items before, against the score */
  diversity?: number;
  /** a share of the answer for new items */
  fresh?: Fresh | null;
  /** return title and attributes of every item, too */
  with_metadata?: boolean;
  /** scenario whose fields apply where this request gives none of its own */
  scenario?: string | null;
  /** candidates of a page: the answer has the first of the k, and a cursor */
  page_size?: number | null;
  /** the cursor of the page before, which stands for all other fields but `with_metadata` */
  cursor?: string | null;
}

/** Candidates, best first within each interest. */
export interface RecallResponse {
  request_id: string;
  /** version of the bundle that answered; the control's, if two are interleaved */
  version: string;
  items: Array<Candidate>;
  /** whether only popular items could be returned */
  degraded: boolean;
  degraded_reason: "no_history" | "unknown_items" | "store_unavailable" | "unreadable_history" | null;
  /** with page_size: asks for the next page; null: there is none */
  cursor?: string | null;
  /** items of the history that the bundle does not hold */
  unknown_items: number;
  /** present if a filter was given */
  filter?: FilterEffect | null;
  /** present if caps, diversity or fresh were given */
  variety?: VarietyEffect | null;
  /** present if the user takes part in experiments */
  experiments?: Array<Arm> | null;
}

/** The outcome of a look for another version. */
export interface ReloadResponse {
  /** version of the bundle that answers recalls */
  serving: string;
  /** version that will take its place once it has loaded; null: the served version is the one that is to be served, or, in an answer 202, the service looks later, since it is loading a version for an arm of an experiment */
  loading: string | null;
}

/** An experiment as the service runs it. */
export interface Running {
  experiment: string;
  layer: string;
  /** part of the layer's users that takes part */
  slice: [number, number];
  /** whether every answer is a draft of both arms' lists */
  interleave: boolean;
  /** fields of a recall that each arm sets */
  arms: Record<string, Record<string, unknown>>;
  weights: Record<string, number>;
  /** version that answers the users of each arm; null: the served one */
  versions?: Record<string, string> | null;
}

/** The scenarios that requests can name. */
export interface ScenariosResponse {
  /** fields of a recall, by scenario */
  scenarios: Record<string, Record<string, unknown>>;
  /** why the file, which has changed, is not used: these are the ones before */
  problem?: string | null;
}

/** An item that candidates should be like, and how much it counts beside the others. */
export interface Seed {
  item_id: string;
  /** a heavier seed counts more */
  weight?: number;
}

/** A request that took long. */
export interface Slow {
  ended: string;
  /** the id by which the log knows it, too */
  request_id: string;
  route: string;
  status: number;
  /** milliseconds from its first byte to the last of its answer */
  ms: number;
  /** milliseconds of each stage of a recall; empty for other requests */
  stages: Record<string, number>;
  /** the trace that has it; null without --tracing, or if it is not recorded */
  trace_id: string | null;
}

/** The slowest requests of the last 5 to 10 minutes, the slowest first. */
export interface SlowResponse {
  /** of the front end that answered: each knows its own requests only */
  requests: Array<Slow>;
}

/** An item on the map, with its title. */
export interface TitledPlace {
  item_id: string;
  /** from -1 to 1 */
  x: number;
  y: number;
  /** the attribute `title`, or `name`, or the id */
  title: string;
}

/** An event of a history; fields that are not known are left out. */
export interface UserEvent {
  item_id: string;
  type?: string | null;
  /** seconds since 1970 */
  timestamp?: number | null;
  value?: number | null;
  watch_seconds?: number | null;
}

/** The stored history of a user, oldest event first; empty if there is none. */
export interface UserHistoryResponse {
  user_id: string;
  events: Array<UserEvent>;
  /** ids of the items shown since and not taken, the newest first, if any */
  offers?: Array<string> | null;
}

/** The effect of caps, diversity and fresh items. */
export interface VarietyEffect {
  /** sum of the candidates' scores */
  score: number;
  /** the same sum of the answer without these fields */
  plain_score: number;
  /** whether fewer than k items are returned, because caps and filter admit no more */
  exhausted: boolean;
}

/** A version in an artifact store. */
export interface Version {
  version: string;
  created: string;
  dataset: string;
  items: number;
  bytes: number;
  served: boolean;
  published: string | null;
  problem: string | null;
}

/** The version that answers recalls, and those that could. */
export interface VersionsResponse {
  /** version of the bundle that answers recalls */
  serving: string;
  /** version that is being taken up in its place; null if there is none */
  loading: string | null;
  /** why another version, which is to be served, is not; null if there is none */
  problem: string | null;
  /** the versions beside it, in the order of publication; empty if the service was given a single bundle */
  versions: Array<Version>;
  /** versions that arms of experiments name, and whether they answer recalls */
  arms: Array<ArmVersion>;
}

export interface Operations {
  "POST /recall": {
    body: RecallRequest;
    answer: RecallResponse;
  };
  "POST /recall/batch": {
    body: BatchRequest;
    answer: BatchResponse;
  };
  "POST /events": {
    body: EventsRequest;
    answer: EventsResponse;
  };
  "GET /healthz": {
    answer: unknown;
  };
  "GET /readyz": {
    answer: Ready;
  };
  "GET /versions": {
    answer: VersionsResponse;
  };
  "POST /admin/reload": {
    answer: ReloadResponse;
  };
  "GET /metrics": {
    answer: unknown;
  };
  "GET /users/{user_id}/history": {
    answer: UserHistoryResponse;
  };
  "DELETE /users/{user_id}": {
    answer: DeletedResponse;
  };
  "GET /scenarios": {
    answer: ScenariosResponse;
  };
  "GET /experiments": {
    answer: ExperimentsResponse;
  };
  "GET /admin/slow": {
    answer: SlowResponse;
  };
  "POST /explorer/recall": {
    body: RecallRequest;
    answer: ExplainedResponse;
  };
  "POST /explorer/exposures": {
    answer: ExposuresResponse;
  };
  "POST /explorer/index": {
    answer: IndexQualityResponse;
  };
  "POST /explorer/map": {
    body: MapRequest;
    answer: MapResponse;
  };
  "PUT /items/{item_id}/hidden": {
    answer: ItemResponse;
  };
  "DELETE /items/{item_id}/hidden": {
    answer: ItemResponse;
  };
  "GET /items/{item_id}": {
    answer: ItemResponse;
  };
  "PATCH /items/{item_id}": {
    body: ItemPatch;
    answer: ItemResponse;
  };
}
