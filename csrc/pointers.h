// Addresses arrive from Python as integers (tensor.data_ptr()); 0 stands for an absent tensor.
#pragma once
#include <stdint.h>

template <class T>
inline T* pointer(uintptr_t address) {
  return reinterpret_cast<T*>(address);
}
