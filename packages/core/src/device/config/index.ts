export * from './host.js';
export { MAP_BASIC, MAP_UNASSIGNED, MAP_VIRTUAL } from './permissions.js';
export * from './saved-state.js';
export type { SavedView } from './saved-view.js';
export * from './virtual-config.js';
