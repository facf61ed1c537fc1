// The functions that addon.cc exports, by file.
#ifndef VFIO_NATIVE_EXPORTS_H_
#define VFIO_NATIVE_EXPORTS_H_

#include <napi.h>

namespace vfio {

// Defines `name` as a function on the exports object.
void Export(napi_env env, napi_value exports, const char* name, napi_callback callback);

void ExportBitmap(napi_env env, napi_value exports);
void ExportDescriptors(napi_env env, napi_value exports);
void ExportMemory(napi_env env, napi_value exports);
void ExportPageSums(napi_env env, napi_value exports);
void ExportRegisters(napi_env env, napi_value exports);
void ExportSockets(napi_env env, napi_value exports);
void ExportWatcher(Napi::Env env, Napi::Object exports);
void ExportLoop(Napi::Env env, Napi::Object exports);

}  // namespace vfio

#endif  // VFIO_NATIVE_EXPORTS_H_
