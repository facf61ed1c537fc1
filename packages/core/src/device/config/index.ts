export * from './host.js';
export * from './lookup.js';
export { MAP_BASIC, MAP_UNASSIGNED, MAP_VIRTUAL } from './permissions.js';
export * from './virtual-config.js';
