package model

import (
	"maps"
	"slices"
	"strings"
	"sync"
)

// This file holds the rules of DTDL as tables: which elements there are, which members each has,
// and the words that are reserved. Flaws checks a file against them; Parse accepts more than they
// allow.

// class is one kind of element.
type class struct {
	named   bool // its "@type" may be absent, because only one kind can stand where it stands
	members map[string]rule
}

// rule says which value one member of an element must have.
type rule struct {
	holds   holding
	needed  bool     // the member must be there
	least   int      // the fewest elements, or the smallest integer
	most    int      // the most elements or characters, or the greatest integer; 0 is no bound
	classes []string // the kinds of element that it holds
	words   []string // the values that it takes
}

type holding int

const (
	holdsText     holding = iota // one text
	holdsTexts                   // one text per language
	holdsBoolean                 // true or false
	holdsInteger                 // a whole number
	holdsWord                    // one of the words
	holdsDTMI                    // an identifier of something that need not be in the file
	holdsValue                   // the value of an EnumValue, which its Enum judges
	holdsElement                 // one element, or the @id of one
	holdsElements                // any number of elements, or of their ids
	holdsSchema                  // one element, the @id of one, or the name of a simple schema
)

const (
	fieldClass     = "Field"
	enumValueClass = "EnumValue"
	mapKeyClass    = "MapKey"
	mapValueClass  = "MapValue"
)

// languages holds the elements of each version of the language.
var languages = sync.OnceValue(func() map[int]map[string]class {
	return map[int]map[string]class{2: languageV2(), 3: languageV3()}
})

func languageV2() map[string]class {
	schemas := []string{arrayKind, enumKind, mapKind, objectKind}
	name := rule{holds: holdsText, needed: true, most: maxName}
	schema := rule{holds: holdsSchema, needed: true, classes: schemas}
	flag := rule{holds: holdsBoolean}
	payload := rule{holds: holdsElement, classes: []string{"CommandPayload"}}
	simple := func(prefix string, words ...string) rule {
		for _, w := range slices.Clone(words) {
			words = append(words, prefix+w+";2")
		}
		return rule{holds: holdsWord, words: words}
	}
	needed := func(r rule) rule { r.needed = true; return r }
	const schemaPrefix = "dtmi:dtdl:instance:Schema:"
	language := map[string]class{
		interfaceKind: {members: map[string]rule{
			"contents": {holds: holdsElements, most: 300, classes: []string{telemetryKind, propertyKind, commandKind, componentKind, relationshipKind}},
			"extends":  {holds: holdsElements, most: 2, classes: []string{interfaceKind}},
			"schemas":  {holds: holdsElements, classes: schemas},
		}},
		telemetryKind: {members: map[string]rule{"name": name, "schema": schema}},
		propertyKind: {members: map[string]rule{"name": name, "writable": flag,
			"schema": {holds: holdsSchema, needed: true, classes: []string{enumKind, mapKind, objectKind}}}},
		commandKind: {members: map[string]rule{"name": name, "request": payload, "response": payload,
			"commandType": simple("dtmi:dtdl:instance:CommandType:", "synchronous", "asynchronous")}},
		"CommandPayload": {named: true, members: map[string]rule{"name": name, "schema": schema}},
		componentKind: {members: map[string]rule{"name": name,
			"schema": {holds: holdsElement, needed: true, classes: []string{interfaceKind}}}},
		relationshipKind: {members: map[string]rule{"name": name, "writable": flag,
			"minMultiplicity": {holds: holdsInteger}, "maxMultiplicity": {holds: holdsInteger, least: 1, most: 500},
			"properties": {holds: holdsElements, most: 300, classes: []string{propertyKind}}, "target": {holds: holdsDTMI}}},
		arrayKind: {members: map[string]rule{"elementSchema": schema}},
		enumKind: {members: map[string]rule{"valueSchema": needed(simple(schemaPrefix, "integer", "string")),
			"enumValues": {holds: holdsElements, needed: true, least: 1, most: 100, classes: []string{enumValueClass}}}},
		enumValueClass: {named: true, members: map[string]rule{"name": name, "enumValue": {holds: holdsValue, needed: true}}},
		mapKind: {members: map[string]rule{
			"mapKey":   {holds: holdsElement, needed: true, classes: []string{mapKeyClass}},
			"mapValue": {holds: holdsElement, needed: true, classes: []string{mapValueClass}}}},
		mapKeyClass:   {named: true, members: map[string]rule{"name": name, "schema": needed(simple(schemaPrefix, "string"))}},
		mapValueClass: {named: true, members: map[string]rule{"name": name, "schema": schema}},
		objectKind: {members: map[string]rule{
			"fields": {holds: holdsElements, needed: true, least: 1, most: 30, classes: []string{fieldClass}}}},
		fieldClass: {named: true, members: map[string]rule{"name": name, "schema": schema}},
	}
	for _, c := range language {
		c.members["comment"] = rule{holds: holdsText, most: 512}
		c.members["description"] = rule{holds: holdsTexts, most: 512}
		c.members["displayName"] = rule{holds: holdsTexts, most: 64}
	}
	return language
}

// languageV3 is version 2 with other bounds, and with Arrays in Properties.
func languageV3() map[string]class {
	language := languageV2()
	payload := language["CommandPayload"]
	delete(language, "CommandPayload")
	language["CommandRequest"] = payload
	language["CommandResponse"] = class{named: true, members: map[string]rule{}}
	maps.Copy(language["CommandResponse"].members, payload.members)
	change := func(class, member string, change func(*rule)) {
		r := language[class].members[member]
		r.words = slices.Clone(r.words)
		change(&r)
		language[class].members[member] = r
	}
	for name, c := range language {
		change(name, "displayName", func(r *rule) { r.most = 512 })
		if _, ok := c.members["name"]; ok {
			change(name, "name", func(r *rule) { r.most = maxNameV3 })
		}
		for member := range c.members {
			change(name, member, func(r *rule) {
				if r.holds == holdsElements {
					r.least, r.most, r.needed = 0, 0, false
				}
				for _, w := range r.words {
					if word, ok := strings.CutSuffix(w, ";2"); ok {
						r.words = append(r.words, word+";3")
					}
				}
			})
		}
	}
	change(propertyKind, "schema", func(r *rule) { r.classes = append(slices.Clone(r.classes), arrayKind) })
	change(commandKind, "request", func(r *rule) { r.classes = []string{"CommandRequest"} })
	change(commandKind, "response", func(r *rule) { r.classes = []string{"CommandResponse"} })
	change(relationshipKind, "maxMultiplicity", func(r *rule) { r.most = 0 })
	return language
}

// units maps each semantic type of DTDL v2 to the units that it can have.
var units = sync.OnceValue(func() map[string][]string {
	table := map[string][]string{}
	for _, row := range [][2]string{
		{"Acceleration", "centimetrePerSecondSquared gForce metrePerSecondSquared"},
		{"Angle Latitude Longitude", "degreeOfArc minuteOfArc radian secondOfArc turn"},
		{"AngularAcceleration", "radianPerSecondSquared"},
		{"AngularVelocity", "degreePerSecond radianPerSecond revolutionPerMinute revolutionPerSecond"},
		{"Area",
			"acre hectare squareCentimetre squareFoot squareInch squareKilometre squareMetre " +
				"squareMillimetre"},
		{"Capacitance", "farad microfarad millifarad nanofarad picofarad"},
		{"Current", "ampere microampere milliampere"},
		{"DataRate",
			"bitPerSecond bytePerSecond exbibitPerSecond exbibytePerSecond gibibitPerSecond " +
				"gibibytePerSecond kibibitPerSecond kibibytePerSecond mebibitPerSecond mebibytePerSecond " +
				"tebibitPerSecond tebibytePerSecond yobibitPerSecond yobibytePerSecond zebibitPerSecond " +
				"zebibytePerSecond"},
		{"DataSize",
			"bit byte exbibit exbibyte gibibit gibibyte kibibit kibibyte mebibit mebibyte tebibit " +
				"tebibyte yobibit yobibyte zebibit zebibyte"},
		{"Density Humidity", "gramPerCubicMetre kilogramPerCubicMetre"},
		{"Distance Length",
			"astronomicalUnit centimetre foot inch kilometre metre micrometre mile millimetre " +
				"nanometre nauticalMile"},
		{"ElectricCharge", "coulomb"},
		{"Energy", "electronvolt gigajoule joule kilojoule kilowattHour megaelectronvolt megajoule"},
		{"Force Thrust", "newton ounce pound ton"},
		{"Frequency", "gigahertz hertz kilohertz megahertz"},
		{"Illuminance", "footcandle lux"},
		{"Inductance", "henry microhenry millihenry"},
		{"Luminance", "candelaPerSquareMetre"},
		{"Luminosity Power",
			"gigawatt horsepower kilowatt kilowattHourPerYear megawatt microwatt milliwatt watt"},
		{"LuminousFlux", "lumen"},
		{"LuminousIntensity", "candela"},
		{"MagneticFlux", "maxwell weber"},
		{"MagneticInduction", "tesla"},
		{"Mass", "gram kilogram microgram milligram slug tonne"},
		{"MassFlowRate", "gramPerHour gramPerSecond kilogramPerHour kilogramPerSecond"},
		{"Pressure",
			"bar inchesOfMercury inchesOfWater kilopascal millibar millimetresOfMercury pascal " +
				"poundPerSquareInch"},
		{"RelativeHumidity", "percent unity"},
		{"Resistance", "kiloohm megaohm milliohm ohm"},
		{"SoundPressure", "bel decibel"},
		{"Temperature", "degreeCelsius degreeFahrenheit kelvin"},
		{"TimeSpan", "day hour microsecond millisecond minute nanosecond second year"},
		{"Torque", "newtonMetre"},
		{"Velocity",
			"centimetrePerSecond kilometrePerHour kilometrePerSecond knot metrePerHour metrePerSecond " +
				"milePerHour milePerSecond"},
		{"Voltage", "kilovolt megavolt microvolt millivolt volt"},
		{"Volume", "cubicCentimetre cubicFoot cubicInch cubicMetre fluidOunce gallon litre millilitre"},
		{"VolumeFlowRate", "litrePerHour litrePerSecond millilitrePerHour millilitrePerSecond"},
	} {
		for name := range strings.FieldsSeq(row[0]) {
			table[name] = strings.Fields(row[1])
		}
	}
	return table
})

// adjuncts are the types of IoT Central's extension that a Telemetry or a Property can have beside
// its own, each with the schemas that it goes with; nil is an Enum.
var adjuncts = map[string][]string{
	"State":              nil,
	"Event":              {"double", "float", "integer", "long", "string"},
	"Location":           {"point", "multiPoint", "lineString", "multiLineString", "polygon", "multiPolygon", "geopoint"},
	"VelocityVector":     {"vector"},
	"AccelerationVector": {"vector"},
}

// vectorUnits are the semantic types whose units the adjuncts with a unit take.
var vectorUnits = map[string]string{"VelocityVector": "Velocity", "AccelerationVector": "Acceleration"}

// reserved are the words of the language that mean nothing as a member or as a type, except where
// the tables above say so.
var reserved = sync.OnceValue(func() map[string]bool {
	words := map[string]bool{}
	add := func(list ...string) {
		for _, w := range list {
			words[w] = true
		}
	}
	for name, list := range units() {
		add(name)
		add(list...)
	}
	add(primitives...)
	for name := range geospatial {
		add(name)
	}
	add(strings.Fields(`
AccelerationUnit AngleUnit AngularAccelerationUnit AngularVelocityUnit AreaUnit Array
asynchronous atto baseUnit BinaryPrefix BinaryUnit Boolean bottomUnit CapacitanceUnit centi
ChargeUnit Command CommandPayload commandType CommandType comment ComplexSchema Component
Content contents CurrentUnit DataRateUnit DataSizeUnit Date DateTime deci DecimalPrefix
DecimalUnit deka DensityUnit description displayName Double Duration elementSchema
EnergyUnit Entity Enum enumValue EnumValue enumValues exa exbi exponent extends femto Field
fields Float ForceUnit FrequencyUnit gibi giga hecto IlluminanceUnit InductanceUnit Integer
Interface kibi kilo languageMajorVersion LengthUnit Long LuminanceUnit LuminousFluxUnit
LuminousIntensityUnit MagneticFluxUnit MagneticInductionUnit Map mapKey MapKey mapValue
MapValue MassFlowRateUnit MassUnit maxMultiplicity mebi mega micro milli minMultiplicity
name NamedEntity nano NumericSchema Object pebi peta pico PowerUnit prefix PressureUnit
PrimitiveSchema properties Property QuantitativeType RatioUnit Relationship request
ResistanceUnit response schema Schema SchemaField schemas SemanticType SemanticUnit
SoundPressureUnit String symbol synchronous target tebi Telemetry TemperatureUnit
TemporalSchema tera Time TimeUnit topUnit TorqueUnit unit Unit UnitAttribute Unitless
valueSchema VelocityUnit VoltageUnit VolumeFlowRateUnit VolumeUnit writable yobi yocto yotta
zebi zepto zetta`)...)
	return words
})
